"""Label maps as they are written: numbers, a palette's indices, or colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from .extras import from_extra
from .images import UnreadableImageError, read_bytes, read_header

with from_extra("images"):
    from PIL import Image

#: The label of pixels that belong to no class.
IGNORED = 255
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "RGB", "RGBA", "LA")


def read_label_map(path: str | Path) -> np.ndarray:
    """Values of a label map as they are written: (H, W) integers, or (H, W, 3) of colours.

    Of an image with a palette, the indices; grey in three channels is one channel.

    Raises:
        UnreadableImageError: if it cannot be read.
    """
    content = read_bytes(path)
    try:
        read_header(content)
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in _MODES:
                raise UnreadableImageError(f"of mode {image.mode}, which holds no labels", path)
            values = np.asarray(image)
    except UnreadableImageError as error:
        raise UnreadableImageError(error.reason, path) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableImageError(f"not a readable image: {error}", path) from error
    if values.ndim == 2:
        return values.astype(np.int64)
    if values.shape[2] == 2:
        return values[..., 0].astype(np.int64)
    values = values[..., :3].astype(np.int64)
    if (values == values[..., :1]).all():
        return values[..., 0]
    return values


def colour_codes(colours: np.ndarray) -> np.ndarray:
    """(..., 3) colours to (...) integers, one each."""
    return (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]
