"""A deformable convolution's offsets and mask as points of deformable attention, and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .kernels.deformable_convolution_kernels import place_points, place_points_backward
from .launch import Launch, remembered

#: Points of a program.
BLOCK = 256


class Points(NamedTuple):
    """Of one convolution: what kernels are compiled for, rows before columns.

    Attributes:
        groups: of channels that have offsets of their own.
        kernel: rows and columns of the convolution's kernel.
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
    """

    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def places(self) -> int:
        return self.kernel[0] * self.kernel[1]


@remembered
def _placing(batch: int, height: int, width: int, points: Points) -> Launch:
    samples = height * width * points.places * points.groups
    geometry = {"KERNEL_W": points.kernel[1]}
    for name, pair in (
        ("STRIDE", points.stride), ("PAD", points.padding), ("DILATION", points.dilation)
    ):  # fmt: skip
        geometry |= {f"{name}_H": pair[0], f"{name}_W": pair[1]}
    numbers = samples, height * width, width
    return _launch(place_points, batch, numbers, {**_blocks(points), **geometry})


@remembered
def _placing_backward(batch: int, height: int, width: int, points: Points) -> Launch:
    samples = height * width * points.places * points.groups
    return _launch(place_points_backward, batch, (samples, height * width), _blocks(points))


def _blocks(points: Points) -> dict[str, int]:
    return {"GROUPS": points.groups, "PLACES": points.places, "BLOCK": BLOCK}


def _launch(kernel, batch: int, numbers: tuple[int, ...], constants: dict[str, int]) -> Launch:
    grid = triton.cdiv(numbers[0], BLOCK), batch
    return Launch(kernel, grid, numbers, constants, {"num_warps": 4})


def placed(
    offset: Tensor, mask: Tensor, points: Points, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Locations (B, H' W' places, groups, 1, 1, 2), x and y in pixels, float32, as 16 bits know no
    part of a pixel on a map of a thousand; and weights without the last axis, in ``dtype``.

    Args:
        offset: (B, 2 groups places, H', W'), y and x in pixels.
        mask: (B, groups places, H', W').
        points: of the convolution.
        dtype: of weights.
    """
    batch, _, height, width = offset.shape
    shape = batch, height * width * points.places, points.groups, 1, 1
    locations = offset.new_empty((*shape, 2), dtype=torch.float32)
    weights = mask.new_empty(shape, dtype=dtype)
    _placing(batch, height, width, points)(
        offset.contiguous(), mask.contiguous(), locations, weights
    )
    return locations, weights


def placed_backward(
    grad_locations: Tensor, grad_weights: Tensor, offset: Tensor, mask: Tensor, points: Points
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`placed` for offset and mask, in their shapes and dtypes."""
    batch, _, height, width = offset.shape
    grad_offset = torch.empty_like(offset, memory_format=torch.contiguous_format)
    grad_mask = torch.empty_like(mask, memory_format=torch.contiguous_format)
    _placing_backward(batch, height, width, points)(
        grad_locations, grad_weights, grad_offset, grad_mask
    )
    return grad_offset, grad_mask
