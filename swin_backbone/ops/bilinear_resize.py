"""Bilinear resizing of maps, with a backward pass that gathers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import dispatch, triton
from .geometry.resampling import axis, mixing

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
    way = dispatch.resize(x, height * width)
    if way == "torch":
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=align_corners)
    if way == "triton":
        return triton.resize_op.resize(triton.resize_op.as_read(x), height, width, align_corners)
    return by_matmul(x, height, width, align_corners)


def concatenate_resized(
    maps: Sequence[Tensor], size: tuple[int, int], align_corners: bool = False
) -> Tensor:
    """``torch.cat`` of maps that are resized first, unless they have the size.

    On a GPU each channels-last map is resized to its place, and none is written twice.

    Args:
        maps: (B, C_i, h_i, w_i) of one dtype, as of :func:`resize_bilinear`.
        size: (H, W), of the result.
        align_corners: as of ``F.interpolate``.

    Returns:
        (B, sum of C_i, H, W).

    Raises:
        ValueError: as :func:`resize_bilinear`.
        TypeError: likewise.
    """
    size = tuple(map(int, size))
    for x in maps:
        check(x, size)
    if _take_places(maps, size):
        return triton.resize_op.concatenate(maps, size, align_corners)
    return torch.cat(
        [x if x.shape[2:] == size else resize_bilinear(x, size, align_corners) for x in maps], 1
    )


def add_resized(base: Tensor, x: Tensor, align_corners: bool = False) -> Tensor:
    """``base + resize_bilinear(x, base.shape[2:])``; on a GPU, of channels-last maps, in one pass.

    Args:
        base: (B, C, H, W).
        x: (B, C, h, w), of the same dtype; both as of :func:`resize_bilinear`.
        align_corners: as of ``F.interpolate``.

    Raises:
        ValueError: as :func:`resize_bilinear`.
        TypeError: likewise.
    """
    size = base.shape[2:]
    check(x, size)
    if base.shape[:2] == x.shape[:2] and _take_places((base, x), size):
        return triton.resize_op.add(base, x, align_corners)
    return base + resize_bilinear(x, size, align_corners)


def _take_places(maps: Sequence[Tensor], size: tuple[int, int]) -> bool:
    """Whether kernels can write channels-last maps side by side, or add them."""
    first = maps[0]
    if not first.is_cuda or size[0] * size[1] > dispatch.MAX_ELEMENTS:
        return False
    for x in maps:
        alike = x.dtype == first.dtype and x.device == first.device and len(x) == len(first)
        if (
            not alike
            or dispatch.why_not_maps(x) is not None
            or not triton.memory_formats.is_channels_last(x)
        ):
            return False
    return True


def by_matmul(x: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """The same as two matrix multiplications, whose gradients add up in a fixed order too."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (
        mixing(
            axis(samples, positions, align_corners, dtype, x.device), slice(None), slice(0, samples)
        )
        for samples, positions in zip(x.shape[2:], (height, width), strict=True)
    )
    return (rows @ x.to(dtype) @ columns.T).to(x.dtype)


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
        return dispatch.resized_scores(logits)
    if impl == "triton":
        reason = dispatch.why_not_maps(logits)
        if reason is not None:
            raise ValueError(f"impl 'triton' cannot run: {reason}")
    return impl
