"""A deformable convolution's offsets and mask as points of deformable attention, and back."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ..geometry.convolution import Geometry
from .kernels.deformable_convolution_kernels import place_points, place_points_backward
from .launch import Launch, remembered

#: Points of a program.
BLOCK = 256


@remembered
def _placing(size: tuple[int, int, int], kernel: tuple[int, int], geometry: Geometry) -> Launch:
    constants = {"KERNEL_W": kernel[1]}
    for name, pair in (
        ("STRIDE", geometry.stride), ("PAD", geometry.padding), ("DILATION", geometry.dilation)
    ):  # fmt: skip
        constants |= {f"{name}_H": pair[0], f"{name}_W": pair[1]}
    return _launch(place_points, size, kernel, geometry, size[2:], constants)


@remembered
def _placing_backward(
    size: tuple[int, int, int], kernel: tuple[int, int], geometry: Geometry
) -> Launch:
    return _launch(place_points_backward, size, kernel, geometry, (), {})


def _launch(started, size, kernel, geometry: Geometry, more: tuple, constants: dict) -> Launch:
    """``size`` is images, rows and columns of the output."""
    batch, height, width = size
    blocks = {"GROUPS": geometry.offset_groups, "PLACES": kernel[0] * kernel[1], "BLOCK": BLOCK}
    samples = height * width * blocks["GROUPS"] * blocks["PLACES"]
    numbers = samples, height * width, *more
    grid = triton.cdiv(samples, BLOCK), batch
    return Launch(started, grid, numbers, blocks | constants, {"num_warps": 4})


def placed(
    offset: Tensor,
    mask: Tensor,
    kernel: tuple[int, int],
    geometry: Geometry,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Locations (B, H' W' places, groups, 1, 1, 2), x and y in pixels, float32, as 16 bits know no
    part of a pixel on a map of a thousand; and weights without the last axis, in ``dtype``.

    Args:
        offset: (B, 2 groups places, H', W'), y and x in pixels.
        mask: (B, groups places, H', W').
        kernel: rows and columns of the convolution's kernel.
        geometry: of the convolution.
        dtype: of weights.
    """
    batch, _, height, width = offset.shape
    queries = height * width * kernel[0] * kernel[1]
    shape = batch, queries, geometry.offset_groups, 1, 1
    locations = offset.new_empty((*shape, 2), dtype=torch.float32)
    weights = mask.new_empty(shape, dtype=dtype)
    _placing((batch, height, width), tuple(kernel), geometry)(
        offset.contiguous(), mask.contiguous(), locations, weights
    )
    return locations, weights


def placed_backward(
    grad_locations: Tensor,
    grad_weights: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel: tuple[int, int],
    geometry: Geometry,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`placed` for offset and mask, in their shapes and dtypes."""
    batch, _, height, width = offset.shape
    grad_offset = torch.empty_like(offset, memory_format=torch.contiguous_format)
    grad_mask = torch.empty_like(mask, memory_format=torch.contiguous_format)
    _placing_backward((batch, height, width), tuple(kernel), geometry)(
        grad_locations, grad_weights, grad_offset, grad_mask
    )
    return grad_offset, grad_mask
