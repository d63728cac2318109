"""Segment images, or detect what is in them, and paint the result over them.

    swin-backbone predict CONFIG CHECKPOINT INPUT [INPUT ...] --out DIR
    swin-backbone predict MODEL.onnx INPUT [INPUT ...] --out DIR

An INPUT is an image, a folder (searched through), a quoted glob, or a .txt list of paths. Each
image becomes ``DIR/NAME.png``: of a segmentor with a legend of the classes found in it, of a
detector with boxes, masks, names and scores. A segmentor sees large images in overlapping windows.
An image that cannot be read, or whose picture cannot be made or written, is reported and skipped,
and the exit status is then 1.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from ..atomic_files import write_whole
from ..device_memory import is_out_of_memory
from ..images import UnreadableImageError, read_image
from ..inference.finders import CheckpointFinder
from ..inference.media_files import find_files, on_one_line
from ..inference.painters import LEAST_SCORE, OPACITY, Detector, Segmentor, exported_painter
from ..inference.predictors import LARGE, CheckpointPredictor, Sliding, TooManyWindowsError
from ..openmmlab.mmengine_configs import read_config
from ..openmmlab.whole_models import is_detector
from .argument_types import config as config_type
from .argument_types import device as device_type
from .argument_types import fraction, positive
from .commands import Parser, command

console = Console(stderr=True, soft_wrap=True)  # paths stay whole


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        __file__,
        description="Predict and paint the result.",
        usage="swin-backbone predict (CONFIG CHECKPOINT | MODEL.onnx) INPUT [INPUT ...] --out DIR "
        "[options]",
    )
    parser.add_argument(
        "model",
        nargs="+",
        help="a config and its checkpoint, or an exported model; then images, folders, globs",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--opacity", type=fraction, default=OPACITY, help="of the colours, 0 to 1")
    parser.add_argument(
        "--slide",
        choices=["auto", "always", "never"],
        default="auto",
        help=f"cut images into windows; auto: those over {LARGE / 1e6:.1f} megapixels",
    )
    parser.add_argument(
        "--score", type=fraction, default=LEAST_SCORE, help="least score of an object"
    )
    parser.add_argument("--window", type=positive, default=1024, help="side of a window, pixels")
    parser.add_argument(
        "--device", type=device_type, help="default: cuda if there is one, else cpu; not for .onnx"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="go on where a checkpoint lacks tensors"
    )
    arguments = parser.parse_args(argv)
    is_exported = arguments.model[0].endswith(".onnx")
    names = ["model"] if is_exported else ["config", "checkpoint"]
    if len(arguments.model) <= len(names):
        parser.error(f"expected {' and '.join(names)}, and at least one image, folder or glob")
    arguments.files = dict(zip(names, arguments.model, strict=False))
    if not is_exported:
        try:
            arguments.files["config"] = config_type(arguments.files["config"])
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
    arguments.inputs = arguments.model[len(names) :]
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    for name, path in arguments.files.items():
        if not Path(path).is_file():
            raise FileNotFoundError(f"{name} {path!r} is not a file")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise NotADirectoryError(f"--out {str(arguments.out)!r} is a file, and no folder")
    pictures = name_pictures(dict(find_files(arguments.inputs)), arguments.out)
    painter = load_painter(arguments)
    skipped = {}
    for path, picture in track(pictures.items(), "predicting", console=console):
        reason = paint(painter, path, picture)
        if reason:
            skipped[path] = reason
    console.print(f"{len(pictures) - len(skipped)} pictures in {escape(str(arguments.out))}")
    for path, reason in skipped.items():
        console.print(f"[red]skipped[/red] {escape(on_one_line(path))}: {escape(reason)}")
    return 1 if skipped else 0


def paint(painter: Segmentor | Detector, path: Path, picture: Path) -> str:
    """Write the picture of one image, or say why there is none: one image never ends a job."""
    try:
        image = read_image(path, "BGR")
        painted = painter.paint(image)
    except UnreadableImageError as error:
        return error.reason
    except TooManyWindowsError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return f"too large for the memory: {image.shape[1]}x{image.shape[0]} pixels"
    try:
        write_whole(picture, painted.save)
    except OSError as error:
        return f"{on_one_line(picture)} cannot be written: {error.strerror or error}"
    return ""


def load_painter(arguments: argparse.Namespace) -> Segmentor | Detector:
    """The model that the command line names.

    Raises:
        ValueError: if a detector is to see images in windows, which it is not made for.
    """
    sliding = Sliding(arguments.slide, arguments.window)
    if "model" in arguments.files:
        file = arguments.files["model"]
        return exported_painter(file, sliding, arguments.score, arguments.opacity)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    config, checkpoint = arguments.files["config"], arguments.files["checkpoint"]
    if is_detector(read_config(config)):
        if arguments.slide == "always":
            raise ValueError("--slide always is for segmentors, and the config is a detector's")
        finder = CheckpointFinder(config, checkpoint, device, arguments.allow_missing)
        return Detector(finder, arguments.score, arguments.opacity)
    predictor = CheckpointPredictor(config, checkpoint, device, sliding, arguments.allow_missing)
    return Segmentor(predictor, arguments.opacity)


def name_pictures(images: dict[Path, Path], out: Path) -> dict[Path, Path]:
    """Where each image's picture goes: ``NAME.png``, or, where several images have that name,
    ``NAME.jpg.png`` and so on.

    Raises:
        ValueError: if two images would have the same picture, or a picture would replace an image.
    """
    short = Counter(below.with_suffix(".png") for below in images.values())
    sources: dict[Path, Path] = {}
    for path, below in images.items():
        picture = below.with_suffix(".png")
        if short[picture] > 1:
            picture = below.with_name(f"{below.name}.png")
        picture = out / picture
        if picture in sources:
            raise ValueError(f"{sources[picture]} and {path} would both become {picture}")
        sources[picture] = path
    inputs = {path.resolve() for path in images}
    for picture, path in sources.items():
        if picture.resolve() in inputs:
            raise ValueError(
                f"the picture of {path} would replace the image {picture}; choose another --out"
            )
    return {path: picture for picture, path in sources.items()}
