"""Segment images, or detect what is in them, and paint the result over them.

    python tools/predict.py CONFIG CHECKPOINT INPUT [INPUT ...] --out DIR

An INPUT is an image, a folder (searched through) or a quoted glob. Each image becomes
``DIR/NAME.png``: of a segmentor with a legend of the classes found in it, of a detector with boxes,
masks, names and scores. A segmentor sees large images in overlapping windows. An image that cannot
be read is reported and skipped, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import colorsys
import glob
import sys
from collections.abc import Iterable
from pathlib import Path

import swin_backbone  # noqa: F401  (it lets mmseg import without compiled ops)

# isort: split
import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from PIL import Image
from rich.console import Console
from rich.progress import track

from swin_backbone.visualization import add_legend, paint_instances, paint_overlay

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
#: Images with more pixels than this are cut into windows, unless --slide says otherwise.
LARGE = 2048 * 1024

console = Console(stderr=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Predict and paint the result.")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint of the model")
    parser.add_argument("inputs", nargs="+", help="images, folders, globs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--opacity", type=float, default=0.55, help="of the colours, 0 to 1")
    parser.add_argument(
        "--slide",
        choices=["auto", "always", "never"],
        default="auto",
        help=f"cut images into windows; auto: those over {LARGE / 1e6:.1f} megapixels",
    )
    parser.add_argument("--score", type=float, default=0.3, help="least score of an object")
    parser.add_argument("--window", type=int, default=1024, help="side of a window, pixels")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    for name in ("config", "checkpoint"):
        if not Path(getattr(arguments, name)).is_file():
            raise FileNotFoundError(f"{name} {getattr(arguments, name)!r} is not a file")
    pictures = name_pictures(find_images(arguments.inputs), arguments.out)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = Detector if Config.fromfile(arguments.config).default_scope == "mmdet" else Segmentor
    model = kind(arguments, device)
    unreadable = []
    for path, picture in track(pictures.items(), "predicting", console=console):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            unreadable.append(path)
            continue
        picture.parent.mkdir(parents=True, exist_ok=True)
        model.paint(image).save(picture)
    console.print(f"{len(pictures) - len(unreadable)} pictures in {arguments.out}")
    for path in unreadable:
        console.print(f"[red]skipped[/red] {path}: not a readable image")
    return 1 if unreadable else 0


def find_images(inputs: Iterable[str]) -> dict[Path, Path]:
    """Each image's path, and its path below the input that named it.

    Raises:
        FileNotFoundError: if an input names no image.
    """
    found: dict[Path, Path] = {}
    for entry in inputs:
        path = Path(entry)
        if path.is_file():
            images = {path: Path(path.name)}
        elif path.is_dir():
            images = {p: p.relative_to(path) for p in path.rglob("*") if _is_image(p)}
        else:
            matches = (Path(match) for match in glob.glob(entry, recursive=True))
            images = {p: Path(p.name) for p in matches if _is_image(p)}
        if not images:
            raise FileNotFoundError(f"input {entry!r} is no image, and no folder or glob of any")
        found |= dict(sorted(images.items()))
    return found


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES


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


class Segmentor:
    """A model of mmseg, and how its predictions are painted."""

    def __init__(self, arguments: argparse.Namespace, device: str):
        from mmseg.apis import init_model

        self.arguments = arguments
        self.model = init_model(arguments.config, arguments.checkpoint, device=device)
        self.own_mode = self.model.test_cfg

    def paint(self, image: np.ndarray) -> Image.Image:
        """The picture of one image (H, W, 3) uint8 BGR: overlay, and a legend of what was found."""
        from mmseg.apis import inference_model

        self.model.test_cfg = test_mode(self.own_mode, image, self.arguments)
        labels = inference_model(self.model, image).pred_sem_seg.data[0].cpu().numpy()
        names, palette = (self.model.dataset_meta[key] for key in ("classes", "palette"))
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        overlay = paint_overlay(rgb, labels, palette, self.arguments.opacity)
        found = [index for index in np.unique(labels) if index < len(names)]
        return add_legend(overlay, [names[i] for i in found], [tuple(palette[i]) for i in found])


def test_mode(own: ConfigDict, image: np.ndarray, arguments: argparse.Namespace) -> ConfigDict:
    """Whether a segmentor sees the image whole or in windows, which overlap by a third.

    ``own`` is the config's ``test_cfg``; in ``auto``, smaller images are seen as it says.
    """
    large = image.shape[0] * image.shape[1] > LARGE
    if arguments.slide == "always" or (arguments.slide == "auto" and large):
        side, stride = arguments.window, max(2 * arguments.window // 3, 1)
        return ConfigDict(own, mode="slide", crop_size=(side, side), stride=(stride, stride))
    return ConfigDict(own, mode="whole") if arguments.slide == "never" else own


class Detector:
    """A model of mmdet, and how its predictions are painted.

    Raises:
        ValueError: if images are to be cut into windows, which detectors are not made for.
    """

    def __init__(self, arguments: argparse.Namespace, device: str):
        from mmdet.apis import init_detector

        if arguments.slide == "always":
            raise ValueError("--slide always is for segmentors, and the config is a detector's")
        self.arguments = arguments
        self.model = init_detector(arguments.config, arguments.checkpoint, device=device)

    def paint(self, image: np.ndarray) -> Image.Image:
        """The picture of one image (H, W, 3) uint8 BGR: masks, boxes, names and scores."""
        from mmdet.apis import inference_detector

        found = inference_detector(self.model, image).pred_instances.cpu()
        found = found[found.scores >= self.arguments.score]
        found = found[found.scores.argsort(descending=True)]
        names, labels = self.model.dataset_meta["classes"], found.labels.tolist()
        # Classes have colours of their own; where there is but one, its objects have.
        keys = labels if len(names) > 1 else range(len(labels))
        painted = paint_instances(
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
            found.bboxes.numpy(),
            [f"{names[i]} {score:.2f}" for i, score in zip(labels, found.scores, strict=True)]
            if len(names) > 1
            else [""] * len(labels),
            [distinct_colour(key) for key in keys],
            found.masks.numpy() if "masks" in found else None,
            self.arguments.opacity,
        )
        return Image.fromarray(painted)


def distinct_colour(index: int) -> tuple[int, int, int]:
    """A colour that neighbours in the sequence do not look like."""
    hue = index * 0.618034 % 1  # steps of the golden ratio
    value = 1.0 if index % 2 else 0.8
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.85, value))


if __name__ == "__main__":
    sys.exit(main())
