"""Segment images and paint the result over them.

    python tools/predict.py CONFIG CHECKPOINT INPUT [INPUT ...] --out DIR
    python tools/predict.py MODEL.onnx INPUT [INPUT ...] --out DIR

An INPUT is an image, a folder (searched through) or a quoted glob. Each image becomes
``DIR/NAME.png`` with a legend of the classes found in it. Large images are cut into overlapping
windows. An image that cannot be read is reported and skipped, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import swin_backbone  # noqa: F401  (it lets mmseg import without compiled ops)

# isort: split
import cv2
import numpy as np
import torch
from images import find_images
from predictors import LARGE, CheckpointPredictor, OnnxPredictor, Predictor, Sliding
from rich.console import Console
from rich.progress import track

from swin_backbone.visualization import add_legend, paint_overlay

console = Console(stderr=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Segment images and paint the result.",
        usage="predict.py (CONFIG CHECKPOINT | MODEL.onnx) INPUT [INPUT ...] --out DIR [options]",
    )
    parser.add_argument(
        "model",
        nargs="+",
        help="a config and its checkpoint, or an exported model; then images, folders, globs",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--opacity", type=float, default=0.55, help="of the colours, 0 to 1")
    parser.add_argument(
        "--slide",
        choices=["auto", "always", "never"],
        default="auto",
        help=f"cut images into windows; auto: those over {LARGE / 1e6:.1f} megapixels",
    )
    parser.add_argument("--window", type=int, default=1024, help="side of a window, pixels")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu; not for .onnx")
    arguments = parser.parse_args()
    is_exported = arguments.model[0].endswith(".onnx")
    names = ["model"] if is_exported else ["config", "checkpoint"]
    if len(arguments.model) <= len(names):
        parser.error(f"expected {' and '.join(names)}, and at least one image, folder or glob")
    arguments.files = dict(zip(names, arguments.model, strict=False))
    arguments.inputs = arguments.model[len(names) :]
    return arguments


def main() -> int:
    arguments = parse_arguments()
    for name, path in arguments.files.items():
        if not Path(path).is_file():
            raise FileNotFoundError(f"{name} {path!r} is not a file")
    pictures = name_pictures(find_images(arguments.inputs), arguments.out)
    predictor = load_predictor(arguments)
    unreadable = []
    for path, picture in track(pictures.items(), "predicting", console=console):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            unreadable.append(path)
            continue
        picture.parent.mkdir(parents=True, exist_ok=True)
        paint(predictor, image, arguments.opacity).save(picture)
    console.print(f"{len(pictures) - len(unreadable)} pictures in {arguments.out}")
    for path in unreadable:
        console.print(f"[red]skipped[/red] {path}: not a readable image")
    return 1 if unreadable else 0


def load_predictor(arguments: argparse.Namespace) -> Predictor:
    """The model that the command line names."""
    sliding = Sliding(arguments.slide, arguments.window)
    if "model" in arguments.files:
        return OnnxPredictor(arguments.files["model"], sliding)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return CheckpointPredictor(*arguments.files.values(), device, sliding)


def name_pictures(images: dict[Path, Path], out: Path) -> dict[Path, Path]:
    """Where each image's picture goes.

    Raises:
        ValueError: if two images would have the same picture.
    """
    sources: dict[Path, Path] = {}
    for path, below in images.items():
        picture = out / below.with_suffix(".png")
        if picture in sources:
            raise ValueError(f"{sources[picture]} and {path} would both become {picture}")
        sources[picture] = path
    return {path: picture for picture, path in sources.items()}


def paint(predictor: Predictor, image: np.ndarray, opacity: float):
    """The picture of one image (H, W, 3) uint8 BGR: overlay, and a legend of what was found."""
    labels, names, palette = predictor.labels(image), predictor.classes, predictor.palette
    overlay = paint_overlay(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), labels, palette, opacity)
    present = [index for index in np.unique(labels) if index < len(names)]
    return add_legend(overlay, [names[i] for i in present], [tuple(palette[i]) for i in present])


if __name__ == "__main__":
    sys.exit(main())
