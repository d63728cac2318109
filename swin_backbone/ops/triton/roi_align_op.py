"""RoI align of a pyramid of channels-last maps."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..double_backward import differentiable_once
from .kernels.roi_align_kernels import pool, pool_backward
from .launch import Launch, remembered

#: Bins that a program has at once, channels of a block, and its warps.
BINS, COLUMNS, WARPS = 64, 128, 4
TILE = 8


class Pooling(NamedTuple):
    """What does not depend on the maps.

    Attributes:
        size: rows and columns of bins.
        sampling_ratio: samples of a bin along an axis; 0 for as many as it has pixels.
        aligned: whether pixel centres lie at half integers.
    """

    size: tuple[int, int]
    sampling_ratio: int
    aligned: bool

    @property
    def constants(self) -> dict[str, int | bool]:
        columns = triton.next_power_of_2(self.size[1])
        rows = max(1, min(BINS // columns, triton.next_power_of_2(self.size[0])))
        rows = max(rows, 16 // columns)  # the least that matrix units take
        constants = {"HIGH": self.size[0], "WIDE": self.size[1]}
        constants |= {"BIN_ROWS": rows, "BIN_COLUMNS": columns}
        return constants | {"RATIO": self.sampling_ratio, "ALIGNED": self.aligned}


def _columns(channels: int) -> dict[str, int]:
    columns = min(COLUMNS, max(16, triton.next_power_of_2(channels)))
    return {"CHANNELS": channels, "COLUMNS": columns}


@remembered
def _pool(regions, shape, level, scale, pooling: Pooling, exact) -> Launch:
    _, channels, height, width = shape
    constants = {**_columns(channels), **pooling.constants, "EXACT": exact}
    groups = triton.cdiv(pooling.size[0], constants["BIN_ROWS"])
    grid = (regions, groups, triton.cdiv(channels, constants["COLUMNS"]))
    numbers = (height, width, level, scale)
    return Launch(pool, grid, numbers, constants, {"num_warps": WARPS})


@remembered
def _pool_backward(shape, level, scale, pooling: Pooling, exact) -> Launch:
    batch, channels, height, width = shape
    constants = {**_columns(channels), **pooling.constants, "EXACT": exact}
    tiles = triton.cdiv(height, TILE) * triton.cdiv(width, TILE)
    grid = (tiles, triton.cdiv(channels, constants["COLUMNS"]), batch)
    numbers = (height, width, level, batch, scale)
    return Launch(pool_backward, grid, numbers, constants, {"num_warps": WARPS})


def _forward(maps, rois, levels, scales, pooling: Pooling) -> Tensor:
    first = maps[0]
    out = torch.zeros(
        (len(rois), first.shape[1], *pooling.size), dtype=first.dtype, device=first.device
    ).contiguous(memory_format=torch.channels_last)
    for level, (x, scale) in enumerate(zip(maps, scales, strict=True)):
        if out.numel() and x.numel():
            exact = x.dtype == torch.float32
            launch = _pool(len(rois), tuple(x.shape), level, scale, pooling, exact)
            launch(x, rois, levels, out)
    return out


def _backward(grad_out, rois, levels, shapes, scales, pooling: Pooling) -> list[Tensor]:
    grad_out = grad_out.contiguous(memory_format=torch.channels_last)
    batch, grads = shapes[0][0], []
    places = levels * batch + rois[:, 0].to(levels.dtype)
    places, order = places.sort(stable=True)
    numbers = torch.arange(len(shapes) * batch + 1, dtype=places.dtype, device=places.device)
    first = torch.searchsorted(places, numbers, out_int32=True)
    for level, (shape, scale) in enumerate(zip(shapes, scales, strict=True)):
        grad = torch.empty(
            shape, dtype=grad_out.dtype, device=grad_out.device, memory_format=torch.channels_last
        )
        if grad.numel():
            exact = grad.dtype == torch.float32
            _pool_backward(tuple(shape), level, scale, pooling, exact)(
                grad_out, rois, order, first, grad
            )
        grads.append(grad)
    return grads


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rois, levels, scales, pooling, *maps):
        ctx.scales, ctx.pooling, ctx.shapes = scales, pooling, [x.shape for x in maps]
        ctx.save_for_backward(rois, levels)
        return _forward(maps, rois, levels, scales, pooling)

    @staticmethod
    @differentiable_once
    def backward(ctx, grad_out):
        rois, levels = ctx.saved_tensors
        grads = _backward(grad_out, rois, levels, ctx.shapes, ctx.scales, ctx.pooling)
        return None, None, None, None, *grads


def roi_align(
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: tuple[float, ...],
    pooling: Pooling,
) -> Tensor:
    """(K, C, rows, columns), channels-last. For eager use.

    Args:
        maps: (B, C, h_i, w_i), channels-last, of one dtype of 16 or 32 bits.
        rois: (K, 5), float32, contiguous.
        levels: int32 (K,), which map a region is cut out of.
        scales: of each level.
        pooling: the rest.
    """
    return _Pool.apply(rois, levels, scales, pooling, *maps)
