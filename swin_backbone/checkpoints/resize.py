"""Fit position tensors that were learned at another window or image size."""

from __future__ import annotations

from math import isqrt

import torch.nn.functional as F
from torch import Tensor

from ..layers import resize_position_embedding


def resize_bias_table(table: Tensor, window_size: tuple[int, int]) -> Tensor | None:
    """Interpolate a relative position bias table of a square window to another window.

    Bicubic over the plane of relative offsets, as the original and mmseg do.

    Args:
        table: ((2 S - 1)**2, heads) for a window of S x S tokens.
        window_size: rows and columns of the window that needs it, in tokens.

    Returns:
        ((2 M_h - 1) (2 M_w - 1), heads), or ``None`` if ``table`` has no square plane.
    """
    side = isqrt(table.shape[0])
    if side * side != table.shape[0]:
        return None
    size = tuple(2 * axis - 1 for axis in window_size)
    plane = table.t().reshape(1, -1, side, side)
    resized = F.interpolate(plane.float(), size=size, mode="bicubic", align_corners=False)
    return resized.reshape(table.shape[1], -1).t().to(table.dtype).contiguous()


def resize_absolute_embedding(embedding: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """Interpolate an absolute position embedding of a square map to another map.

    Args:
        embedding: (1, S * S, C).
        grid: rows and columns of the map that needs it, in tokens.

    Returns:
        (1, rows * columns, C), or ``None`` if ``embedding`` has no square map.
    """
    side = isqrt(embedding.shape[1])
    if side * side != embedding.shape[1]:
        return None
    resized = resize_position_embedding(embedding.float(), (side, side), grid)
    return resized.flatten(1, 2).to(embedding.dtype).contiguous()
