"""Images of every kind that are written into files, with the pixels that readers should find."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

SIZE = (21, 34)
EXIF_ORIENTATION = 0x0112
#: How the stored pixels of each EXIF orientation are turned upright, by the standard's table.
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


class ImageFile(NamedTuple):
    """An image in a file.

    Attributes:
        suffix: of its name.
        content: its bytes.
        expected: (H, W, 3) RGB that a reader should find.
        tolerance: largest difference, in levels.
    """

    suffix: str
    content: bytes
    expected: np.ndarray
    tolerance: int = 0


def grey() -> np.ndarray:
    """A ramp with all 256 levels."""
    return np.linspace(0, 255, SIZE[0] * SIZE[1]).round().astype(np.uint8).reshape(SIZE)


def colour() -> np.ndarray:
    return np.dstack([grey(), 255 - grey(), np.roll(grey(), 5, 1)])


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to have any number of pixels, in about a hundred bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(pixels: np.ndarray, orientation: int = 1) -> bytes:
    """A TIFF of any dtype, without compression; Pillow and OpenCV write few of them."""
    height, width, channels = (*pixels.shape, 1)[:3]
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    shorts = {
        258: [8 * pixels.dtype.itemsize] * channels,
        259: [1],
        262: [2 if channels == 3 else 1],
        274: [orientation],
        277: [channels],
        339: [kind] * channels,
    }
    longs = {256: width, 257: height, 278: height, 279: pixels.nbytes, 273: 0}
    tags = sorted([*shorts, *longs])
    beside = 8 + 2 + 12 * len(tags) + 4  # where values that do not fit into their tag begin
    longs[273] = beside + sum(2 * len(v) for v in shorts.values() if len(v) > 2)
    directory, long_values = struct.pack("<H", len(tags)), b""
    for tag in tags:
        if tag in longs:
            directory += struct.pack("<HHII", tag, 4, 1, longs[tag])
            continue
        values = struct.pack(f"<{len(shorts[tag])}H", *shorts[tag])
        directory += struct.pack("<HHI", tag, 3, len(shorts[tag]))
        if len(values) > 4:
            directory += struct.pack("<I", beside + len(long_values))
            long_values += values
        else:
            directory += values.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + long_values + pixels.tobytes()


def _by_pillow(format, mode, orientation, **options):
    """A file of a mode of Pillow's."""
    rgb, expected, tolerance = Image.fromarray(colour()), np.dstack([grey()] * 3), 0
    alpha = Image.fromarray(np.roll(grey(), 9, 0))
    deep = grey().astype(np.int32) * 257
    image = {
        "1": lambda: Image.fromarray(grey() > 100),
        "L": lambda: Image.fromarray(grey()),
        "LA": lambda: Image.merge("LA", [Image.fromarray(grey()), alpha]),
        "P": lambda: rgb.quantize(200),
        "RGB": lambda: rgb,
        "RGBA": lambda: Image.merge("RGBA", [*rgb.split(), alpha]),
        "CMYK": lambda: rgb.convert("CMYK"),
        "I;16": lambda: Image.fromarray(deep.astype(np.uint16)),
        "I": lambda: Image.fromarray(deep),
        "F": lambda: Image.fromarray(grey().astype(np.float32) / 255),
    }[mode]()
    if mode == "1":
        expected = np.where(expected > 100, 255, 0)
    elif mode == "P":
        expected = np.asarray(image.convert("RGB"))
    elif mode in ("RGB", "RGBA", "CMYK"):
        expected = colour()
    if (format, mode) == ("TIFF", "RGBA"):  # libtiff blends it with black
        expected, tolerance = colour() * (np.asarray(alpha)[..., None] / 255), 1
    if format == "JPEG":
        options = {"quality": 100, "subsampling": 0, **options}
        tolerance = 4  # of rounding, in two colour spaces and of the coefficients
    elif format == "WEBP":
        options = {"lossless": True, "exact": True}
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    file = io.BytesIO()
    image.save(file, format, **({} if format == "BMP" else {"exif": exif}), **options)
    return file.getvalue(), expected, tolerance


def _png_16(pixels, orientation):
    """A PNG with 16 bits, which OpenCV writes, and with EXIF, which it does not."""
    content = cv2.imencode(".png", pixels)[1].tobytes()
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, EXIF_ORIENTATION, 3, 1, orientation, 0, 0)
    return content[:33] + chunk(b"eXIf", exif) + content[33:]


def _deep(kind, orientation):
    """Kinds that Pillow does not write: of colour, or with 16 and more bits a channel."""
    file_format, dtype, channels = kind.split()
    pixels = colour() if channels == "colour" else grey()
    scale = 1 / 255 if dtype.startswith("float") else 257
    if dtype == "int16":
        pixels = pixels // 2
    values = (pixels.astype(np.float64) * scale).astype(dtype)
    expected = pixels if channels == "colour" else np.dstack([pixels] * 3)
    if file_format == "TIFF":
        return tiff(values, orientation), expected, 0
    return _png_16(values[..., ::-1] if channels == "colour" else values, orientation), expected, 0


KINDS = {
    "JPEG": ["L", "RGB", "CMYK", "RGB progressive"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "uint16 colour"],
    "BMP": ["1", "L", "P", "RGB"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "RGB tiff_lzw",
             "uint16 grey", "uint16 colour", "int16 grey", "int32 grey", "int32 colour",
             "float32 grey", "float32 colour", "float64 grey"],
    "WEBP": ["L", "RGB", "RGBA"],
}  # fmt: skip
ALL_KINDS = [f"{file_format} {mode}" for file_format, modes in KINDS.items() for mode in modes]


def image_file(kind: str, orientation: int = 1) -> ImageFile:
    """The file of one of :data:`ALL_KINDS`, its pixels stored with an EXIF orientation."""
    file_format, mode, *option = kind.split()
    if option in (["colour"], ["grey"]):
        content, expected, tolerance = _deep(kind, orientation)
    else:
        options = {"progressive": True} if option == ["progressive"] else {}
        if file_format == "TIFF" and option:
            options = {"compression": option[0]}
        content, expected, tolerance = _by_pillow(file_format, mode, orientation, **options)
    upright = UPRIGHT[1 if file_format == "BMP" else orientation](expected)
    return ImageFile(f".{file_format.lower()}", content, upright, tolerance)


def write_bad_files(folder: Path) -> dict[Path, str]:
    """Write everything with the name of an image that is none; path to what is said of it."""
    nan = np.full((4, 5), np.nan, np.float32)
    files = {
        "empty.png": (b"", "the file is empty"),
        "text.jpg": (b"no image at all", "no known format"),
        "page.png": (b"<!DOCTYPE html><html></html>", "no known format"),
        "huge.png": (png_header(60_000, 60_000), "far too many pixels"),
        "large.png": (png_header(13_400, 13_400), "far too many pixels"),
        "none.png": (png_header(0, 7), "not a readable image"),
        "wide.tif": (tiff(np.zeros((2, 3), np.float32))
                     .replace(b"\x00\x01\x04\x00\x01\x00\x00\x00\x03\x00\x00\x00",
                              b"\x00\x01\x04\x00\x01\x00\x00\x00\x00\x00\x00\x7f"),
                     "far too many pixels"),
        "nan.tif": (tiff(nan), "float32 values must lie in 0 to 1, got nan to nan"),
        "photons.tif": (tiff(np.float64([[0, 300.5]])), "must lie in 0 to 1, got 0 to 300.5"),
        "signed.tif": (tiff(np.int32([[-1, 70]])), "int32 values must lie in 0 to 65535, got -1"),
        "negative.tif": (tiff(np.int16([[-1, 7000]])), "int16 values must lie in 0 to 65535, got"),
        "wide-range.tif": (tiff(np.int32([[0, 65536]])), "must lie in 0 to 65535, got 0 to 65536"),
        "dark.tif": (tiff(np.int32([[0, 255]])), "all would be black, got 0 to 255"),
        "half.tif": (tiff(np.float16([[0, 1]])), "not a readable image"),
        "odd[/b].png": (b"", "the file is empty"),
        "two\nlines.png": (b"", "the file is empty"),
    }  # fmt: skip
    said = {}
    for name, (content, reason) in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        said[folder / name] = reason
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    said |= {folder / "gone.png": "no such file", folder / "pipe.png": "not a file"}
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png"))
    strange.write_bytes(b"")
    return {**said, strange: "the file is empty"}
