"""The one way to read an image: what training reads, what the tools read.

Pixels are those of ``LoadImageFromFile`` with mmcv's ``cv2`` backend: 8 bits a channel, three
channels, alpha left out. Where OpenCV gives none, or wrong ones, the rules are:

- 16 bits become 8 by keeping the upper 8 (of colour in TIFF, OpenCV rounds).
- Signed or 32-bit integers are taken as numbers of 16 bits; others than 0 to 65535 are refused.
- Floating point is taken as 0 to 1, rounded to 0 to 255; other values are refused.
- The EXIF orientation is honoured in every format that has one.
- A file that is cut off is refused, as is one with more than :data:`MOST_PIXELS`.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .extras import from_extra

with from_extra("images"):
    import cv2
    from PIL import Image, TiffImagePlugin, UnidentifiedImageError

#: More are not decoded: a file of a few kilobytes may claim to unfold to gigabytes. It is where
#: Pillow stops too.
MOST_PIXELS = 178_956_970
#: Largest file, in bytes, that OpenCV decodes.
MOST_BYTES = 2**31 - 1

#: OpenCV's names for decoding at a part of the size.
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_EXIF_ORIENTATION = 0x0112
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: What turns the stored pixels upright, for EXIF orientations 2 to 8, after a transposition (of
#: 5 to 8): whether to flip rows, and columns.
_FLIPS = {2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}


class UnreadableImageError(ValueError):
    """An image that cannot be read.

    Args:
        reason: why, without the name of the file.
        path: the file, where there is one.
    """

    def __init__(self, reason: str, path: str | Path | None = None):
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return self.reason if self.path is None else f"{self.path}: {self.reason}"


class Header(NamedTuple):
    """What an image's first bytes say.

    Attributes:
        width: in pixels, as stored.
        height: in pixels, as stored.
        format: as Pillow names it, ``'PNG'`` for one.
        deep: whether the values are signed, floating point or have more than 16 bits.
        orientation: EXIF's, where OpenCV does not honour it; else 1.
    """

    width: int
    height: int
    format: str
    deep: bool = False
    orientation: int = 1


def read_image(path: str | Path, channels: str = "RGB") -> np.ndarray:
    """Read the image in a file.

    Args:
        path: the file.
        channels: their order, ``'RGB'`` or ``'BGR'``.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadableImageError: if it is no file, or no image that can be read; it names the file.
    """
    try:
        return decode_image(read_bytes(path), channels)
    except UnreadableImageError as error:
        raise UnreadableImageError(error.reason, path) from error
    except MemoryError as error:
        raise UnreadableImageError("too large for the memory", path) from error


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a plain file, which is not waited for, as a pipe would be.

    Raises:
        UnreadableImageError: if it is none, cannot be opened, or has more than :data:`MOST_BYTES`.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("not a file", path)
        if status.st_size > MOST_BYTES:
            raise UnreadableImageError(f"over {MOST_BYTES} bytes: {status.st_size}", path)
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UnreadableImageError("no such file", path) from error
    except UnreadableImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImageError(f"cannot be opened: {reason}", path) from error


def decode_image(
    content: bytes, channels: str = "RGB", reduction: int = 1, header: Header | None = None
) -> np.ndarray:
    """Decode an image.

    Args:
        content: all bytes of its file.
        channels: their order, ``'RGB'`` or ``'BGR'``.
        reduction: decode a JPEG at this part of its size, 1, 2, 4 or 8: each pixel stands for so
            many by so many, in a part of the time. Images of other formats come at their size.
        header: :func:`read_header` of the content, where it has been read.

    Returns:
        (H, W, 3) uint8; sides of a reduced JPEG are rounded up.

    Raises:
        ValueError: if ``channels`` or ``reduction`` is none of these.
        UnreadableImageError: if the bytes are no image that can be read.
    """
    if channels not in ("RGB", "BGR"):
        raise ValueError(f"channels must be 'RGB' or 'BGR', got {channels!r}")
    if reduction not in _REDUCED:
        raise ValueError(f"reduction must be 1, 2, 4 or 8, got {reduction!r}")
    header = header or read_header(content)
    flag = _REDUCED[reduction] if header.format == "JPEG" else cv2.IMREAD_COLOR
    if header.format == "WEBP":  # some versions of OpenCV turn these, others do not
        flag |= cv2.IMREAD_IGNORE_ORIENTATION
    image = _deep_image(content) if header.deep else _decode(content, flag)
    image = _upright(image, header.orientation)
    if channels == "RGB":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(image)


def read_header(content: bytes) -> Header:
    """Size and kind of an image, before a pixel of it is decoded.

    Raises:
        UnreadableImageError: if the bytes do not begin as an image does, are those of a JPEG that
            is cut off, or claim more than :data:`MOST_PIXELS`.
    """
    if not content:
        raise UnreadableImageError("not a readable image: the file is empty")
    try:
        is_tiff = content.startswith(_TIFF)
        header = _tiff_header(content) if is_tiff else _header(content)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not a readable image: no known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(f"far too many pixels: {error}") from error
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UnreadableImageError(f"not a readable image: {error}") from error
    if header.width * header.height > MOST_PIXELS:
        raise UnreadableImageError(
            f"far too many pixels: {header.width}x{header.height}, at most {MOST_PIXELS} are read"
        )
    return header


def _header(content: bytes) -> Header:
    # Opening decodes nothing.
    with Image.open(io.BytesIO(content)) as image:
        orientation = 1
        if image.format == "WEBP":
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        if image.format in ("JPEG", "MPO") and _is_cut_off(content):
            raise UnreadableImageError("not a readable image: the file is cut off")
        deep = image.mode in ("I", "F")
        return Header(*image.size, image.format, deep, orientation)


def _tiff_header(content: bytes) -> Header:
    """Of a TIFF, whose kinds Pillow does not all know: from its tags."""
    file = io.BytesIO(content)
    big = content[2:3] == b"+" or content[3:4] == b"+"
    tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if big else 8))
    file.seek(tags.next)
    tags.load(file)
    width, height = int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH])
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    kinds = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    unsigned = all(kind in (1, 4) for kind in kinds)  # 4: undefined
    return Header(width, height, "TIFF", deep=max(bits) > 16 or not unsigned)


def _is_cut_off(jpeg: bytes) -> bool:
    """Whether a JPEG has no end. Some versions of OpenCV fill up what is missing with grey.

    A thumbnail before the picture has an end of its own: it is stepped over, with its segment.
    """
    place = 2
    while jpeg[place : place + 1] == b"\xff":
        kind = jpeg[place + 1]
        if kind == 0xDA:  # the scan begins
            return jpeg.find(b"\xff\xd9", place) < 0
        if kind == 0xFF or kind == 0x01 or 0xD0 <= kind <= 0xD8:  # no length follows
            place += 1 if kind == 0xFF else 2
        else:
            place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return place >= len(jpeg)


def _decode(content: bytes, flag: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error as error:
        raise UnreadableImageError(f"not a readable image: {error.err or error}") from error
    if image is None:
        raise UnreadableImageError("not a readable image: cut off, broken, or of an unknown kind")
    return image


def _deep_image(content: bytes) -> np.ndarray:
    """(H, W, 3) uint8 BGR of what OpenCV reads, but not as 8 bits."""
    values = _decode(content, cv2.IMREAD_UNCHANGED)
    if values.dtype in (np.uint8, np.uint16):  # 16 bits that Pillow takes for 32
        return _decode(content, cv2.IMREAD_COLOR)
    least, most = values.min(), values.max()  # NaN where there is any
    if np.issubdtype(values.dtype, np.integer):
        if least < 0 or most > 65535:
            raise UnreadableImageError(
                f"{values.dtype} values must lie in 0 to 65535, got {least} to {most}"
            )
        if 0 < most < 256:
            raise UnreadableImageError(
                f"{values.dtype} values are taken as those of 16 bits, and all would be black, "
                f"got {least} to {most}; store them with 8 bits"
            )
        pixels = (values.astype(np.int32) >> 8).astype(np.uint8)
    else:
        if not (least >= 0 and most <= 1):
            raise UnreadableImageError(
                f"{values.dtype} values must lie in 0 to 1, got {least:g} to {most:g}"
            )
        pixels = (values * 255).round().astype(np.uint8)
    if pixels.ndim == 2:
        return np.dstack([pixels] * 3)
    if pixels.shape[2] < 3:
        return np.dstack([pixels[..., 0]] * 3)
    return pixels[..., :3]  # BGR, and alpha


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in _FLIPS:
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    rows, columns = _FLIPS[orientation]
    return np.ascontiguousarray(image[:: -1 if rows else 1, :: -1 if columns else 1])
