"""Files that strangers upload: what is decoded, and what is refused before it is."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

#: Longest side of an image, in pixels; more would make a map of a few rows and huge strides.
LONGEST_SIDE = 16384
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


class RefusedError(ValueError):
    """An upload that is not decoded, and why, in one sentence for who uploaded it."""


class Limits(NamedTuple):
    """What is accepted.

    Attributes:
        megabytes: of the file.
        megapixels: of the image.
    """

    megabytes: float = 10
    megapixels: float = 25


def open_upload(path: str | Path, limits: Limits) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an uploaded file.

    Sizes are read from the headers, and compared with the limits, before a pixel is decoded: a file
    of a few kilobytes may unfold to gigabytes.

    Raises:
        RefusedError: if the file is too large, has too many pixels, or is no image.
    """
    megabytes = os.path.getsize(path) / 1e6
    if megabytes > limits.megabytes:
        raise RefusedError(
            f"The file has {megabytes:.1f} MB; at most {limits.megabytes:g} MB are taken."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is below
            image = Image.open(path, formats=FORMATS)
        with image:
            _check_dimensions(image.size, limits)
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except RefusedError:
        raise
    except Image.DecompressionBombError as error:
        raise RefusedError(f"The image has far too many pixels: {error}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise RefusedError(f"The file is no readable image ({', '.join(FORMATS)}).") from error


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
