"""The part of a resized image that a crop keeps, without the rest of it.

A pixel of the result looks at ``(place + 0.5) * step - 0.5`` in the source. Resizing a part of the
source has the same places if the part begins where a pixel of the result does. Some pixel shortly
before the crop nearly does: the closest of :data:`REACH` is taken, if it is off by no more than
:data:`MOST_OFF`; otherwise the whole image is resized.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

#: Pixels before a crop among which the part to resize begins.
REACH = 64
#: Source pixels by which places may be off, along an axis. The mean is a quarter of it.
MOST_OFF = 1 / 64
#: A crop of more than this part of the result is cut out of the whole of it.
WORTH_IT = 0.6


class Box(NamedTuple):
    """Rows and columns of a crop, ends excluded, as mmseg's ``RandomCrop`` has them."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """That part of an image (H, W, ...), as a view."""
        return image[self.top : self.bottom, self.left : self.right]


class Part(NamedTuple):
    """What to resize along an axis.

    Attributes:
        start: first source pixel.
        stop: after the last source pixel.
        lead: pixels of the result before the crop.
        size: pixels of the crop.
    """

    start: int
    stop: int
    lead: int
    size: int


def crop_resized(
    image: np.ndarray, size: tuple[int, int], box: Box, reduction: int = 1, full=None
) -> np.ndarray:
    """What ``box`` keeps of an image that is resized bilinearly, as OpenCV does.

    Args:
        image: (H, W, 3) uint8.
        size: rows and columns to resize to.
        box: the crop, in pixels of the resized image and within it.
        reduction: how many pixels of the full image each one stands for, along an axis.
        full: rows and columns of the full image; default: those of ``image``.

    Returns:
        (box rows, box columns, 3) uint8. Without a reduction, the pixels of
        ``cv2.resize(image, ...)``, or those up to :data:`MOST_OFF` of a source pixel beside: two
        neighbours that differ by d give a pixel that differs by up to d / 64, and rounding.
    """
    full = full or image.shape[:2]
    steps = [side / reduction / new for side, new in zip(full, size, strict=True)]
    kept = (box.bottom - box.top) * (box.right - box.left)
    parts = None
    if kept < WORTH_IT * size[0] * size[1]:
        parts = _parts(image, steps, box)
    if parts is None:
        return box.cut(_resize_whole(image, size, steps, reduction))
    rows, columns = parts
    source = image[rows.start : rows.stop, columns.start : columns.stop]
    resized = cv2.resize(
        source, None, fx=1 / steps[1], fy=1 / steps[0], interpolation=cv2.INTER_LINEAR
    )
    return resized[rows.lead : rows.lead + rows.size, columns.lead : columns.lead + columns.size]


def _resize_whole(image: np.ndarray, size, steps, reduction: int) -> np.ndarray:
    height, width = size
    if reduction == 1:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    # Sides were rounded up: pixels keep their distance, and what is too many is left out.
    return cv2.resize(
        image, None, fx=1 / steps[1], fy=1 / steps[0], interpolation=cv2.INTER_LINEAR
    )[:height, :width]


def _parts(image: np.ndarray, steps, box: Box) -> tuple[Part, Part] | None:
    """The parts along both axes, or ``None`` where there is none for one of them."""
    ends = ((box.top, box.bottom), (box.left, box.right))
    parts = []
    for source, step, (first, last) in zip(image.shape, steps, ends, strict=False):
        part = _part(source, step, first, last)
        if part is None:
            return None
        parts.append(part)
    return parts[0], parts[1]


def _part(source: int, step: float, first: int, last: int) -> Part | None:
    """The part whose places meet best, unless they do not, or rounding leaves a pixel out."""
    # The crop's first pixel needs its left neighbour too, unless the image begins there.
    nearest = max(first - math.ceil(0.5 / step), 0)
    begins = np.arange(nearest, max(nearest - REACH, 0) - 1, -1)
    places = begins * step
    distances = np.abs(places - np.rint(places))
    best = int(np.argmin(distances))
    if distances[best] > MOST_OFF:
        return None
    begin = int(begins[best])
    start = round(begin * step)
    stop = min(source, math.floor((last - 0.5) * step - 0.5) + 3)  # both neighbours, and one more
    part = Part(start, stop, first - begin, last - first)
    return part if round((stop - start) / step) >= part.lead + part.size else None


def crop_resized_labels(labels: np.ndarray, places: tuple, box: Box) -> np.ndarray:
    """What ``box`` keeps of a label map that is resized by taking the nearest pixel.

    Args:
        labels: (H, W).
        places: :func:`nearest_places` of rows and of columns.
        box: the crop, in pixels of the resized map.

    Returns:
        (box rows, box columns), exactly those of ``cv2.resize``.
    """
    rows, columns = places
    return labels[rows[box.top : box.bottom]].take(columns[box.left : box.right], axis=1)


def nearest_places(size: int, resized: int) -> np.ndarray:
    """The pixel, along an axis, that OpenCV's nearest interpolation takes for each of a result."""
    step = 1.0 / (resized / size)  # in OpenCV's own order, for the same rounding
    return np.minimum(np.floor(np.arange(resized) * step).astype(np.intp), size - 1)
