"""What features are extracted of: images and frames of videos, in a fixed order."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..media import IMAGE_SUFFIXES, VIDEO_SUFFIXES


class Item(NamedTuple):
    """One image, or one frame of a video.

    Attributes:
        path: the file.
        frame: which frame, from 0; -1 for an image.
    """

    path: str
    frame: int = -1


class UnreadableError(Exception):
    """An image that cannot be decoded, and why."""


def find_items(source: str, every: int = 1) -> list[Item]:
    """All items that ``source`` names.

    Args:
        source: an image, a video, a folder (searched through), a glob, or a ``.txt`` file with one
            path a line, relative to the working folder.
        every: take each so-manieth frame of a video.

    Raises:
        FileNotFoundError: if it names nothing.
        ValueError: if ``every`` is below 1, or a video has no frame that can be decoded.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    paths = _find_paths(source)
    if not paths:
        raise FileNotFoundError(f"input {source!r} names no image, video, folder, glob or list")
    items = []
    for path in paths:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            items += [Item(str(path), frame) for frame in range(0, _count_frames(path), every)]
        else:
            items.append(Item(str(path)))
    return items


def _find_paths(source: str) -> list[Path]:
    path = Path(source)
    if path.is_file() and path.suffix == ".txt":
        lines = (line.strip() for line in path.read_text().splitlines())
        return [Path(line) for line in lines if line]  # a missing one is reported by its index row
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(source, recursive=True))
    return sorted(
        p for p in found if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    )


def _count_frames(path: Path) -> int:
    """Frames that can be decoded; the number in the file's header is often an estimate."""
    video, count = cv2.VideoCapture(str(path)), 0
    while video.grab():
        count += 1
    video.release()
    if count == 0:
        raise ValueError(f"video {str(path)!r} has no frame that can be decoded")
    return count


class Reader:
    """Decodes items: images on several threads, the frames of a video one after another.

    Args:
        threads: how many images are decoded at a time.
    """

    def __init__(self, threads: int = 4):
        self._pool = ThreadPoolExecutor(threads)
        self._video: tuple[str, cv2.VideoCapture] | None = None
        self._next_frame = 0

    def read(self, items: Iterable[Item]) -> Iterator[np.ndarray | UnreadableError]:
        """(H, W, 3) uint8 RGB of each item, or why there is none; in order."""
        items = list(items)
        images = self._pool.map(_try_image, [item for item in items if item.frame < 0])
        for item in items:
            yield next(images) if item.frame < 0 else self._frame(item)

    def _frame(self, item: Item) -> np.ndarray | UnreadableError:
        if self._video is None or self._video[0] != item.path or item.frame < self._next_frame:
            self._video = (item.path, cv2.VideoCapture(item.path))
            self._next_frame = 0
        video = self._video[1]
        # Seeking lands on key frames with some codecs; grabbing is slower and exact.
        while self._next_frame < item.frame and video.grab():
            self._next_frame += 1
        decoded, pixels = video.read()
        self._next_frame += 1
        if not decoded:
            return UnreadableError(f"frame {item.frame} cannot be decoded")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _try_image(item: Item) -> np.ndarray | UnreadableError:
    try:
        with Image.open(item.path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        return UnreadableError("no such file")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        return UnreadableError(f"not a readable image: {error}")
    except Image.DecompressionBombError as error:
        return UnreadableError(str(error))
