"""Bilinear resizing of maps, with a backward pass that gathers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import triton
from .geometry.resampling import axis, mixing
from .triton_backend import DTYPES, MAX_ELEMENTS, why_not_device

#: Images of a batch that kernels take: the most programs along an axis of their grid.
MAX_IMAGES = 65535
IMPLEMENTATIONS = ("auto", "reference", "tiled", "triton")


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
    height, width = map(int, size)
    if not x.is_cuda or len(x) == 0:  # where PyTorch's own gathers, too
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=align_corners)
    is_small = x.shape[:2].numel() <= 4 * MAX_IMAGES and height * width <= MAX_ELEMENTS
    if is_small and why_not_kernels(x) is None:
        return triton.resize_op.resize(triton.resize_op.as_read(x), height, width, align_corners)
    return by_products(x, height, width, align_corners)


def by_products(x: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """The same as products with two matrices, whose gradients add up in a fixed order too."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (
        mixing(
            axis(samples, positions, align_corners, dtype, x.device), slice(None), slice(0, samples)
        )
        for samples, positions in zip(x.shape[2:], (height, width), strict=True)
    )
    return (rows @ x.to(dtype) @ columns.T).to(x.dtype)


def why_not_kernels(x: Tensor) -> str | None:
    """Why kernels cannot read (B, C, h, w), or ``None`` if they can."""
    reason = why_not_device(x)
    if reason is not None:
        return reason
    if x.dtype not in DTYPES:
        return f"computes in {', '.join(map(str, DTYPES))}, got {x.dtype}"
    if x.shape[1:].numel() > MAX_ELEMENTS or len(x) > MAX_IMAGES:
        shape = tuple(x.shape)
        return f"a batch has at most {MAX_IMAGES} images of {MAX_ELEMENTS} elements, got {shape}"
    return None if len(x) else "there are no images"


def check(x: Tensor, size: tuple[int, int]) -> None:
    """Raise what :func:`resize_bilinear` says."""
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x must be (B, C, h, w), with C, h and w from 1, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be two numbers from 1, got {tuple(size)}")


def chosen_impl(impl: str, logits: Tensor) -> str:
    """The implementation for scores (B, K, h, w) that is asked for.

    Raises:
        ValueError: for one that there is not, or that cannot run.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if impl == "auto":
        return "triton" if logits.is_cuda and why_not_kernels(logits) is None else "tiled"
    if impl == "triton":
        reason = why_not_kernels(logits)
        if reason is not None:
            raise ValueError(f"impl 'triton' cannot run: {reason}")
    return impl
