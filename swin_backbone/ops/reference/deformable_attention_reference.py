"""Multi-scale deformable attention in plain operators, which define it.

Deformable DETR, https://arxiv.org/abs/2010.04159, equation 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = Sequence[tuple[int, int]]


def by_gathering(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The definition: each point mixes the four values around it. Every derivative exists.

    Arguments and result are those of :func:`swin_backbone.ops.multi_scale_deformable_attention`.
    """
    batch, _, heads, channels = value.shape
    queries, dtype = locations.shape[1], _dtype_of_sums(value, locations, weights)
    total = value.new_zeros((batch, heads, queries, channels), dtype=dtype)
    # (B, heads, queries, levels, points), then keys as rows of each head.
    places, parts = locations.to(dtype).transpose(1, 2), weights.to(dtype).transpose(1, 2)
    rows_of_values = value.to(dtype).transpose(1, 2)
    start = 0
    for level, (height, width) in enumerate(shapes):
        x = places[..., level, :, 0] * width - 0.5  # pixel centres lie at half integers
        y = places[..., level, :, 1] * height - 0.5
        for column, of_column in _two_neighbours(x):
            for row, of_row in _two_neighbours(y):
                known = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                part = torch.where(known, of_row * of_column * parts[..., level, :], 0.0)
                place = torch.where(known, start + row * width + column, 0).long()
                index = place.flatten(2)[..., None].expand(-1, -1, -1, channels)
                around = rows_of_values.gather(2, index).view(*place.shape, channels)
                total = total + (around * part[..., None]).sum(-2)
        start += height * width
    return total.transpose(1, 2).flatten(2).to(value.dtype)


def _two_neighbours(position: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The pixels before and after a position, and what the position has of them."""
    lower = position.detach().floor()
    yield lower, 1 - (position - lower)
    yield lower + 1, position - lower


def by_grid_sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The same by PyTorch's own bilinear sampling, level by level: what runs without kernels."""
    batch, _, heads, channels = value.shape
    queries, dtype = locations.shape[1], _dtype_of_sums(value, locations, weights)
    total = value.new_zeros((batch * heads, channels, queries), dtype=dtype)
    levels = value.split([height * width for height, width in shapes], 1)
    for level, (pixels, shape) in enumerate(zip(levels, shapes, strict=True)):
        maps = pixels.to(dtype).permute(0, 2, 3, 1).reshape(batch * heads, channels, *shape)
        grid = 2 * locations[:, :, :, level].to(dtype).transpose(1, 2).flatten(0, 1) - 1
        samples = F.grid_sample(maps, grid, "bilinear", "zeros", align_corners=False)
        part = weights[:, :, :, level].to(dtype).transpose(1, 2).flatten(0, 1)
        total = total + (samples * part[:, None]).sum(-1)
    return total.view(batch, heads * channels, queries).transpose(1, 2).contiguous().to(value.dtype)


def _dtype_of_sums(*tensors: Tensor) -> torch.dtype:
    """At least float32: 16 bits do not tell the pixels of a large map apart."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
