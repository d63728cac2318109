"""Layer norm of token maps, and of the neighbourhoods that patch merging joins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import dispatch, triton
from .cpu import onednn_linear as cpu_products
from .geometry.corner_pad import corner_pad
from .geometry.neighbours import in_unfold_order
from .geometry.packing import Packing
from .geometry.token_layout import MAPS, TokenLayout
from .geometry.windows import as_kernels_read, clear_padding
from .layer_parameters import LinearParameters, NormParameters, compute_dtype, plain_layer_norm
from .linear import norm_linear
from .weight_copies import cast_weight


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, valid_sizes: Tensor | None = None
) -> Tensor:
    """Layer norm over the last axis (https://arxiv.org/abs/1607.06450), on any device.

    Args:
        x: (..., C).
        weight: (C,).
        bias: (C,).
        eps: added to the variance.
        valid_sizes: of a batch of maps (B, H, W, C): (B, 2) rows and columns of each image; the
            norm is zero outside. ``None`` for all.

    Returns:
        (..., C): float32 under autocast, as torch's own, else in the dtype of ``x``.
    """
    if dispatch.layer_norm(x, x.shape[-1]) != "triton":
        return clear_padding(plain_layer_norm(x, weight, bias, eps), valid_sizes)
    return triton.norm_op.layer_norm(
        x.contiguous(), weight, bias, eps, False, norm_dtype(x), as_kernels_read(valid_sizes)
    )


def norm_beside(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, valid_sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`layer_norm` of ``x``, and ``x`` again for what it is an input of besides.

    The two gradients for ``x`` meet here, and are summed where the norm's is computed rather than
    in a pass of its own.
    """
    if not (torch.is_grad_enabled() and x.requires_grad and x.is_contiguous()):
        return layer_norm(x, weight, bias, eps, valid_sizes), x
    if dispatch.layer_norm(x, x.shape[-1]) != "triton":
        return layer_norm(x, weight, bias, eps, valid_sizes), x
    return triton.norm_op.norm_beside(
        x, weight, bias, eps, norm_dtype(x), as_kernels_read(valid_sizes)
    )


def norm_dtype(x: Tensor) -> torch.dtype:
    """In which dtype torch writes the layer norm of ``x``."""
    return torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype


def merge_neighbours(x: Tensor, stride: tuple[int, int] = (2, 2)) -> Tensor:
    """Join the channels of 2 x 2 neighbourhoods of tokens, laid at every ``stride``.

    Swin Transformer, section 3.1, "patch merging". Beyond the border are zeros.

    Args:
        x: (B, H, W, C).
        stride: step between neighbourhoods, in tokens.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), 4 C), in the order of ``nn.Unfold``: the four
        neighbours' values of channel 0 (upper left, upper right, lower left, lower right), of
        channel 1, ...
    """
    if stride == (2, 2):
        return _tiles(x).permute(0, 1, 3, 5, 2, 4).flatten(-3)
    (stride_h, stride_w), (height, width) = stride, x.shape[1:3]
    rows = (height + stride_h - 1) // stride_h
    columns = (width + stride_w - 1) // stride_w
    x = corner_pad(x, (2, 2), stride, dims=(1, 2))
    neighbours = [
        x[:, i::stride_h, j::stride_w][:, :rows, :columns] for i in (0, 1) for j in (0, 1)
    ]
    return torch.stack(neighbours, dim=-1).flatten(-2)


def _tiles(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, ceil(H / 2), 2, ceil(W / 2), 2, C), with zeros beyond the border."""
    rows, columns = ((length + 1) // 2 for length in x.shape[1:3])
    x = corner_pad(x, (2, 2), (2, 2), dims=(1, 2))
    return x.reshape(-1, rows, 2, columns, 2, x.shape[-1])


def merge_packed(x: Tensor, packing: Packing) -> Tensor:
    """Join the channels of 2 x 2 neighbourhoods of packed images' tokens, zeros beyond borders.

    Args:
        x: (T, C).
        packing: where the tokens of each image lie, with the tables of a pyramid.

    Returns:
        (T of the next level, 4 C), neighbour by neighbour: upper left, upper right, lower left,
        lower right; see :func:`by_neighbour`.
    """
    places = x.new_zeros(4 * sum(packing.shrink((2, 2)).counts), x.shape[1])
    return places.index_copy(0, packing.tables.merged, x).view(-1, 4 * x.shape[1])


def by_neighbour(parameter: Tensor) -> Tensor:
    """(..., 4 C) from the order of :func:`merge_neighbours` to that of :func:`merge_packed`."""
    return parameter.unflatten(-1, (-1, 4)).transpose(-2, -1).flatten(-2)


def merge_norm_linear(
    x: Tensor,
    norm: NormParameters,
    weight: Tensor,
    layout: TokenLayout = MAPS,
    by_column: bool = False,
) -> Tensor:
    """Join neighbourhoods, normalise and project them: patch merging in one function.

    Args:
        x: (B, H, W, C), or of variable length (T, C).
        norm: over 4 C channels, in the order of :func:`merge_neighbours`.
        weight: (N, 4 C), in the same order.
        layout: where the tokens lie, of variable length with the tables of a pyramid; what is
            outside the valid part of a map counts as zero.
        by_column: whether parameters are neighbour by neighbour instead: upper left, lower left,
            upper right, lower right, as the original repository's.

    Returns:
        (B, ceil(H / 2), ceil(W / 2), N), or (T of the next level, N).
    """
    way = None if layout.packing is not None else dispatch.patch_merging(x, weight.shape[1])
    if by_column and way != "triton":
        by_column = False
        norm = NormParameters(in_unfold_order(norm.weight), in_unfold_order(norm.bias), norm.eps)
        weight = in_unfold_order(weight)
    if layout.packing is not None:
        return _merge_variable_length(x, norm, weight, layout.packing)
    if way == "triton":
        dtype = compute_dtype(x)
        copy = triton.patch_merging_op.copy_by_neighbour
        low = cast_weight(weight, dtype) if by_column else copy(weight, dtype)
        return triton.patch_merging_op.merge_reduce(
            x.contiguous(), norm.weight, norm.bias, weight, low,
            as_kernels_read(layout.valid_sizes), norm.eps, by_column,
        )  # fmt: skip
    x = layout.clear(x)
    if way == "cpu" and 4 * x.numel() >= weight.numel():
        # Runs of channels are copied faster than single ones, of maps and of parameters alike.
        x = _tiles(x).permute(0, 1, 3, 2, 4, 5).flatten(-3)
        return _project(way)(x, *_by_neighbour(norm, weight))
    return _project(way)(merge_neighbours(x), norm, LinearParameters(weight, None))


def _by_neighbour(norm: NormParameters, weight: Tensor) -> tuple[NormParameters, LinearParameters]:
    norm = NormParameters(by_neighbour(norm.weight), by_neighbour(norm.bias), norm.eps)
    return norm, LinearParameters(by_neighbour(weight), None)


def _merge_variable_length(
    x: Tensor, norm: NormParameters, weight: Tensor, packing: Packing
) -> Tensor:
    x = merge_packed(x, packing)
    way = dispatch.patch_merging(x, weight.shape[1])
    norm, layer = _by_neighbour(norm, weight)
    if way == "triton":
        normed = triton.norm_op.layer_norm(
            x, norm.weight, norm.bias, norm.eps, False, compute_dtype(x), None
        )
        return F.linear(normed, layer.weight)
    return _project(way)(x, norm, layer)


def _project(way: str):
    return cpu_products.norm_linear if way == "cpu" else norm_linear
