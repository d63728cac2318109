"""Layer norm of token maps, and of the neighbourhoods that patch merging joins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import triton
from .cpu import onednn_linear as cpu_products
from .cpu.eager import why_not_eager
from .geometry.corner_pad import corner_pad
from .geometry.packing import Packing
from .geometry.windows import as_kernels_read, clear_padding
from .linear import norm_linear
from .parameters import LinearParameters, NormParameters, product_dtype
from .symbolic import is_exporting
from .triton_backend import DTYPES, why_not_device

#: Channels of a row up to which a program can hold it.
MAX_CHANNELS = 8192


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
    if not runs_on_kernels(x, x.shape[-1]):
        return clear_padding(F.layer_norm(x, weight.shape, weight, bias, eps), valid_sizes)
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
    if torch.compiler.is_compiling() or not runs_on_kernels(x, x.shape[-1]):
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
    (stride_h, stride_w), (height, width) = stride, x.shape[1:3]
    rows = (height + stride_h - 1) // stride_h
    columns = (width + stride_w - 1) // stride_w
    x = corner_pad(x, (2, 2), stride, dims=(1, 2))
    if stride == (2, 2):  # neighbourhoods tile the map
        x = x.reshape(-1, rows, 2, columns, 2, x.shape[-1])
        return x.permute(0, 1, 3, 5, 2, 4).flatten(-3)
    neighbours = [
        x[:, i::stride_h, j::stride_w][:, :rows, :columns] for i in (0, 1) for j in (0, 1)
    ]
    return torch.stack(neighbours, dim=-1).flatten(-2)


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
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    packing: Packing | None = None,
    valid_sizes: Tensor | None = None,
) -> Tensor:
    """Join neighbourhoods, normalise and project them: patch merging in one function.

    Args:
        x: (B, H, W, C), or with ``packing`` (T, C).
        norm_weight: (4 C,), in the order of :func:`merge_neighbours`, as all that follow.
        norm_bias: (4 C,).
        eps: added to the variance.
        weight: (N, 4 C).
        packing: where the tokens of each image lie, with the tables of a pyramid.
        valid_sizes: of a batch of maps: (B, 2) rows and columns of each image; what is outside
            counts as zero. ``None`` for all.

    Returns:
        (B, ceil(H / 2), ceil(W / 2), N), or (T of the next level, N).
    """
    if packing is not None:
        x = merge_packed(x, packing)
        norm_weight, norm_bias = by_neighbour(norm_weight), by_neighbour(norm_bias)
    if not runs_on_kernels(x, weight.shape[1]):
        project = cpu_products.norm_linear if why_not_eager(x) is None else norm_linear
        norm = NormParameters(norm_weight, norm_bias, eps)
        if packing is None:
            x = merge_neighbours(clear_padding(x, valid_sizes))
        else:
            weight = by_neighbour(weight)
        return project(x, norm, LinearParameters(weight, None))
    if packing is not None:
        normed = triton.norm_op.layer_norm(
            x, norm_weight, norm_bias, eps, False, product_dtype(x), None
        )
        return F.linear(normed, by_neighbour(weight))
    low = triton.patch_merging_op.copy_by_neighbour(weight, product_dtype(x))
    return triton.patch_merging_op.merge_reduce(
        x.contiguous(), norm_weight, norm_bias, weight, low, as_kernels_read(valid_sizes), eps
    )  # fmt: skip


def runs_on_kernels(x: Tensor, channels: int) -> bool:
    """Whether the kernels of norms run on ``x``, for rows of so many channels."""
    if not x.is_cuda or is_exporting():
        return False
    return x.dtype in DTYPES and channels <= MAX_CHANNELS and not why_not_device(x)
