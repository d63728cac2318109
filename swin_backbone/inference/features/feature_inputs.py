"""What features are extracted of: images and frames of videos, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...extras import from_extra
from ...images import UnreadableImageError, read_image
from ..media_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_files

with from_extra("images"):
    import cv2


class Item(NamedTuple):
    """One image, or one frame of a video.

    Attributes:
        path: the file.
        frame: which frame, from 0; -1 for an image.
    """

    path: str
    frame: int = -1


def find_items(source: str, every: int = 1) -> list[Item]:
    """All items that ``source`` names.

    Args:
        source: an image, a video, a folder (searched through), a glob, or a ``.txt`` file with one
            path a line, relative to the working folder.
        every: take every N-th frame of a video.

    Returns:
        Of a video that cannot be decoded, its first frame, so that reading says what is wrong.

    Raises:
        FileNotFoundError: if it names nothing.
        ValueError: if ``every`` is below 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    items = []
    for path, _ in find_files([source], IMAGE_SUFFIXES | VIDEO_SUFFIXES):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            items += [Item(str(path), f) for f in range(0, max(_count_frames(path), 1), every)]
        else:
            items.append(Item(str(path)))
    return items


def _count_frames(path: Path) -> int:
    """Frames that can be decoded; the number in the file's header is often an estimate."""
    video, count = _open_video(str(path)), 0
    while video is not None and video.grab():
        count += 1
    return count


def _open_video(path: str) -> cv2.VideoCapture | None:
    """``None`` for a name that is not UTF-8: OpenCV would end the process."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return None
    return cv2.VideoCapture(path)


class Reader:
    """Decodes items: images on several threads, the frames of a video one after another.

    Args:
        threads: how many images are decoded at a time.
    """

    def __init__(self, threads: int = 4):
        self._pool = ThreadPoolExecutor(threads)
        self._video: tuple[str, cv2.VideoCapture] | None = None
        self._next_frame = 0

    def read(self, items: Iterable[Item]) -> Iterator[np.ndarray | UnreadableImageError]:
        """(H, W, 3) uint8 RGB of each item, or why there is none; in order."""
        items = list(items)
        images = self._pool.map(_try_image, [item for item in items if item.frame < 0])
        for item in items:
            yield next(images) if item.frame < 0 else self._frame(item)

    def _frame(self, item: Item) -> np.ndarray | UnreadableImageError:
        if self._video is None or self._video[0] != item.path or item.frame < self._next_frame:
            self._video = (item.path, _open_video(item.path))
            self._next_frame = 0
        video = self._video[1]
        if video is None:
            return UnreadableImageError("the name of a video must be in UTF-8", item.path)
        # Seeking lands on key frames with some codecs; grabbing is slower and exact.
        while self._next_frame < item.frame and video.grab():
            self._next_frame += 1
        decoded, pixels = video.read()
        self._next_frame += 1
        if not decoded:
            return UnreadableImageError(f"frame {item.frame} cannot be decoded", item.path)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _try_image(item: Item) -> np.ndarray | UnreadableImageError:
    try:
        return read_image(item.path)
    except UnreadableImageError as error:
        return error
