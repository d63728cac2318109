"""Data sets of generated images, in the layouts and sizes of ADE20K and Cityscapes."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from swin_backbone.atomic_files import write_bytes


class Kind(NamedTuple):
    """A data set to be like.

    Attributes:
        size: rows and columns of its images.
        classes: labels of a map are 0 to ``classes``, of which 0 is ignored, or to ``classes - 1``.
        folders: of images and labels.
        endings: of images and labels.
        config: in configs/_base_/datasets.
        root: under SWIN_DATA_ROOT.
    """

    size: tuple[int, int]
    classes: int
    folders: tuple[str, str]
    endings: tuple[str, str]
    config: str
    root: str


KINDS = {
    "ADE20K": Kind(
        (512, 683),
        151,
        ("images/training", "annotations/training"),
        (".jpg", ".png"),
        "ade20k.py",
        "ade/ADEChallengeData2016",
    ),
    "Cityscapes": Kind(
        (1024, 2048),
        19,
        ("leftImg8bit/train", "gtFine/train"),
        ("_leftImg8bit.jpg", "_gtFine_labelTrainIds.png"),
        "cityscapes.py",
        "cityscapes",
    ),
}
#: Of JPEGs, as of photographs: a byte or so for 6 pixels.
QUALITY = 88


def write_data(root: Path, kind: Kind, number: int, seed: int = 0, split: str = "") -> None:
    """Write so many images and label maps, of soft shapes with grain and of irregular regions.

    Args:
        root: SWIN_DATA_ROOT.
        kind: what they are to be like.
        number: of images.
        seed: of the first.
        split: the folders' last part in the place of the training split's.
    """
    places = [Path(root, kind.root, folder) for folder in kind.folders]
    if split:
        places = [place.with_name(split) for place in places]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        image, labels = _scene(np.random.default_rng((seed, index)), kind)
        picture = io.BytesIO()
        Image.fromarray(labels).save(picture, "PNG")
        contents = _jpeg(image), picture.getvalue()
        for place, ending, content in zip(places, kind.endings, contents, strict=True):
            write_bytes(place / f"{index:05}{ending}", content)


def encoded_image(kind: Kind, seed: int) -> bytes:
    """A JPEG like those of a data set."""
    return _jpeg(_scene(np.random.default_rng(seed), kind)[0])


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


@contextmanager
def temporary_data(kind: Kind, number: int) -> Iterator[Path]:
    """A folder with so many images and label maps, as SWIN_DATA_ROOT."""
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), kind, number)
        yield Path(folder)


def _scene(rng: np.random.Generator, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = kind.size

    def field(step: int, channels: int, spread: float) -> np.ndarray:
        shape = (rows // step + 2, columns // step + 2, channels)
        coarse = rng.normal(0, spread, shape).astype(np.float32)
        return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)

    regions = field(96, 8, 1.0) + field(12, 8, 0.12)
    region = regions.argmax(2)
    labels = rng.integers(0, kind.classes, 8).astype(np.uint8)[region]
    colours = rng.uniform(30, 225, (8, 3)).astype(np.float32)[region]
    image = colours + field(24, 3, 18) + field(3, 3, 9)
    return image.clip(0, 255).astype(np.uint8), labels
