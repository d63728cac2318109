"""Deformable convolution on a GPU: samples of a map by deformable attention's kernels, a product.

Each place of the convolution's kernel, at each pixel, is a query with one point; what is sampled
are the columns of the product. Sums are float32 in 16 bits, too. Points are given in pixels: one
that lies on a pixel has the slope to its right and below, as in torchvision.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import dispatch, triton
from .deformable_attention import shapes_on_device
from .geometry.convolution import Geometry


class Samples(NamedTuple):
    """What deformable attention is asked for.

    Attributes:
        value: (B, H W, groups, C / groups), the map.
        shapes: (1, 2), its rows and columns.
        locations: (B, H' W' places, groups, 1, 1, 2), x and y, in pixels.
        weights: (B, H' W' places, groups, 1, 1), the modulation.
    """

    value: Tensor
    shapes: Tensor
    locations: Tensor
    weights: Tensor


def runs_as_kernels(x: Tensor, weight: Tensor, offset: Tensor, offset_groups: int) -> bool:
    """Whether :func:`deformable_convolution` of these starts kernels, and is worth calling."""
    if not x.is_cuda or not x.numel() or not offset.numel():
        return False
    batch, channels, height, width = x.shape
    one = x.new_empty(())
    value = one.expand(batch, height * width, offset_groups, channels // offset_groups)
    queries = offset.shape[2:].numel() * weight.shape[2:].numel()
    weights = one.expand(batch, queries, offset_groups, 1, 1)
    locations = weights[..., None].expand(*weights.shape, 2)
    return dispatch.deformable_attention(value, locations, weights) == "triton"


def deformable_convolution(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Deformable convolution v2 (https://arxiv.org/abs/1811.11168, equation 1), without gradients.

    Args:
        x: (B, C, H, W), of 16 or 32 bits, for which :func:`runs_as_kernels` holds.
        weight: (D, C, rows, columns), in the same dtype.
        offset: (B, 2 groups places, H', W'), y and x in pixels.
        mask: (B, groups places, H', W'), factors on the samples.
        bias: (D,), or ``None``.
        geometry: of the convolution.

    Returns:
        (B, D, H', W'), in memory channels last.
    """
    columns = _columns(_samples(x, weight, offset, mask, geometry), offset)
    out = torch.nn.functional.linear(columns, _matrix(weight), bias)
    return _as_map(out, offset)


def deformable_convolution_gradients(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    geometry: Geometry,
    with_bias: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of :func:`deformable_convolution` for x, weight, offset, mask and bias, each in its
    dtype, given that of the result (B, D, H', W'); without ``with_bias`` there is none for it."""
    samples = _samples(x, weight, offset, mask, geometry)
    grad_out = grad_out.to(x.dtype).flatten(2).transpose(1, 2).contiguous()
    of_columns = (grad_out @ _matrix(weight)).view(*samples.locations.shape[:2], -1)
    of_value, of_locations, of_weights = triton.deformable_attention_op.sampled_backward(
        of_columns, *samples, in_pixels=True
    )
    matrix = grad_out.flatten(0, 1).t() @ _columns(samples, offset).flatten(0, 1)
    batch, channels, height, width = x.shape
    of_offset, of_mask = triton.deformable_convolution_op.placed_backward(
        of_locations, of_weights, offset, mask, weight.shape[2:], geometry
    )
    return (
        of_value.view(batch, height, width, channels).permute(0, 3, 1, 2),
        matrix.view(len(weight), *weight.shape[2:], channels).permute(0, 3, 1, 2),
        of_offset,
        of_mask,
        grad_out.sum((0, 1)) if with_bias else None,
    )


def _samples(x, weight, offset, mask, geometry: Geometry) -> Samples:
    batch, channels, height, width = x.shape
    groups = geometry.offset_groups
    value = x.permute(0, 2, 3, 1).reshape(batch, height * width, groups, channels // groups)
    shapes = shapes_on_device(((height, width),), x.device)
    placed = triton.deformable_convolution_op.placed(
        offset, mask, weight.shape[2:], geometry, x.dtype
    )
    return Samples(value.contiguous(), shapes, *placed)


def _columns(samples: Samples, offset: Tensor) -> Tensor:
    """(B, H' W', places C)."""
    found = triton.deformable_attention_op.sampled(*samples, in_pixels=True)
    return found.view(len(offset), offset.shape[2] * offset.shape[3], -1)


def _matrix(weight: Tensor) -> Tensor:
    """(D, places C)."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _as_map(out: Tensor, like: Tensor) -> Tensor:
    return out.transpose(1, 2).view(len(out), -1, *like.shape[2:])
