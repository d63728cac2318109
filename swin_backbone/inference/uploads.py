"""Files that strangers upload: what is decoded, and what is refused before it is."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..images import UnreadableImageError, decode_image, read_bytes, read_header

#: Longest side of an image, in pixels; more would make a map of a few rows and huge strides.
LONGEST_SIDE = 16384
#: MPO: several JPEGs in one, as some cameras write them.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF")


class RefusedError(ValueError):
    """An upload that is not decoded, and why, in one sentence for who uploaded it."""


class Limits(NamedTuple):
    """What is accepted, and how much work is done for it.

    Attributes:
        megabytes: of the file.
        megapixels: of the image.
        work_megapixels: that models see; of a larger image, a smaller copy.
    """

    megabytes: float = 10
    megapixels: float = 25
    work_megapixels: float = 1


def open_upload(path: str | Path, limits: Limits) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an uploaded file, as every tool reads it.

    Sizes are read from the headers, and compared with the limits, before a pixel is decoded: a file
    of a few kilobytes may unfold to gigabytes.

    Raises:
        RefusedError: if the file is too large, has too many pixels, is no image, or is gone.
    """
    try:
        megabytes = os.path.getsize(path) / 1e6
    except OSError as error:
        raise RefusedError("The file is not kept any more; drop it again.") from error
    if megabytes > limits.megabytes:
        raise RefusedError(
            f"The file has {megabytes:.1f} MB; at most {limits.megabytes:g} MB are taken."
        )
    try:
        content = read_bytes(path)
        header = read_header(content)
        if header.format not in FORMATS:
            raise UnreadableImageError(f"{header.format} is not taken")
        _check_dimensions((header.width, header.height), limits)
        return decode_image(content)
    except UnreadableImageError as error:
        raise RefusedError(
            f"The file is no readable image ({', '.join(FORMATS)}): {error.reason}."
        ) from error


def smaller_copy(image: np.ndarray, megapixels: float) -> np.ndarray:
    """(H, W, C) uint8, reduced to this many pixels where it has more; the aspect stays."""
    height, width = image.shape[:2]
    most = max(int(megapixels * 1e6), 1)
    if height * width <= most:
        return image
    factor = math.sqrt(most / (height * width))
    rows = max(int(height * factor), 1)
    columns = max(min(int(width * factor), most // rows), 1)
    rows = min(rows, most // columns)  # a side of one pixel leaves the other too long
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)


def _check_dimensions(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.megapixels * 1e6:
        raise RefusedError(
            f"The image has {width}x{height} pixels; at most {limits.megapixels:g} megapixels "
            f"are taken."
        )
    if max(size) > LONGEST_SIDE:
        raise RefusedError(
            f"The image has {width}x{height} pixels; a side may have at most {LONGEST_SIDE}."
        )
