"""Fit position tensors that were learned at another window or image size."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.resized_embedding import resize_position_embedding


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


def resize_bias_table_log_spaced(table: Tensor, window_size: tuple[int, int]) -> Tensor | None:
    """Interpolate a bias table so that near offsets keep their detail (BEiT's way, timm's default).

    The old offsets are laid out in a geometric progression that ends where the new window does,
    so near the centre an old offset stays about where it was, and far ones are stretched. Between
    them values are interpolated linearly on each axis.

    Args:
        table: ((2 S - 1)**2, heads) for a window of S x S tokens.
        window_size: rows and columns of the window that needs it, in tokens.

    Returns:
        ((2 M_h - 1) (2 M_w - 1), heads), or ``None`` if ``table`` has no square plane.
    """
    side = isqrt(table.shape[0])
    if side * side != table.shape[0]:
        return None
    plane = table.double().unflatten(0, (side, side))
    for axis, size in enumerate(window_size):
        plane = _interpolate_axis(plane, axis, _geometric_offsets(side // 2, size - 1), size - 1)
    return plane.flatten(0, 1).to(table.dtype).contiguous()


def _geometric_offsets(old: int, new: int) -> Tensor:
    """Where offsets -old to old come to lie: 1, 1 + q, 1 + q + q^2, ..., the last near ``new``."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**old) / (1 - ratio) > new:
            high = ratio
        else:
            low = ratio
    steps = ratio ** torch.arange(old, dtype=torch.float64, device="cpu")
    far = steps.cumsum(0)
    return torch.cat([-far.flip(0), far.new_zeros(1), far])


def _interpolate_axis(plane: Tensor, axis: int, offsets: Tensor, reach: int) -> Tensor:
    """Values at -reach to reach along an axis whose values lie at ascending ``offsets``.

    Beyond the last offset, the value stays the last.
    """
    wanted = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
    if len(offsets) == 1:  # a window of one token
        return plane.repeat_interleave(len(wanted), dim=axis)
    right = torch.searchsorted(offsets, wanted).clamp(1, len(offsets) - 1)
    weight = (wanted - offsets[right - 1]) / (offsets[right] - offsets[right - 1])
    weight = weight.clamp(0, 1)
    shape = [1] * plane.dim()
    shape[axis] = -1
    weight = weight.reshape(shape)
    low, high = plane.index_select(axis, right - 1), plane.index_select(axis, right)
    return low * (1 - weight) + high * weight


#: How bias tables of another window are resized, by name.
TABLE_INTERPOLATIONS: dict[str, Callable[[Tensor, tuple[int, int]], Tensor | None]] = {
    "bicubic": resize_bias_table,
    "log_spaced": resize_bias_table_log_spaced,
}


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Make a patch embedding for images with another number of channels.

    One channel gets the sum over the old ones, which a grey image repeated over them would get.
    More channels repeat the old ones in turn, scaled so that the sum over channels stays about
    what it was.

    Args:
        weight: (embed_dims, old channels, rows, columns).
        channels: of the new images.

    Returns:
        (embed_dims, channels, rows, columns).
    """
    old = weight.shape[1]
    if channels == 1:
        return weight.float().sum(dim=1, keepdim=True).to(weight.dtype)
    repeated = weight.float().repeat(1, -(-channels // old), 1, 1)[:, :channels]
    return (repeated * (old / channels)).to(weight.dtype)


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
