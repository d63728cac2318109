"""Layer norm of token maps, and of the neighbourhoods that patch merging joins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends.triton import DTYPES, why_not_device
from .cpu import products as cpu_products
from .cpu.eager import why_not_eager
from .parameters import LinearParameters, NormParameters, product_dtype
from .products import norm_linear

#: Channels of a row up to which a program can hold it.
MAX_CHANNELS = 8192


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the last axis (https://arxiv.org/abs/1607.06450), on any device.

    Args:
        x: (B, H, W, C).
        weight: (C,).
        bias: (C,).
        eps: added to the variance.

    Returns:
        (B, H, W, C): float32 under autocast, as torch's own, else in the dtype of ``x``.
    """
    if not _runs_on_kernels(x, x.shape[-1]):
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    from .fused.norm import layer_norm as kernel  # needs triton, which may not be there

    dtype = torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype
    return kernel(x.contiguous(), weight, bias, eps, False, dtype)


def merge_neighbours(x: Tensor) -> Tensor:
    """Join the channels of each 2 x 2 neighbourhood of tokens; zeros beyond the border.

    Swin Transformer, section 3.1, "patch merging".

    Args:
        x: (B, H, W, C).

    Returns:
        (B, ceil(H / 2), ceil(W / 2), 4 C), in the order of ``nn.Unfold``: the four neighbours'
        values of channel 0 (upper left, upper right, lower left, lower right), of channel 1, ...
    """
    x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    neighbours = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.stack(neighbours, dim=-1).flatten(-2)


def merge_norm_linear(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor
) -> Tensor:
    """Join neighbourhoods, normalise and project them: patch merging in one function.

    Args:
        x: (B, H, W, C).
        norm_weight: (4 C,), in the order of :func:`merge_neighbours`, as all that follow.
        norm_bias: (4 C,).
        eps: added to the variance.
        weight: (N, 4 C).

    Returns:
        (B, ceil(H / 2), ceil(W / 2), N).
    """
    if not _runs_on_kernels(x, weight.shape[1]):
        project = cpu_products.norm_linear if why_not_eager(x) is None else norm_linear
        norm = NormParameters(norm_weight, norm_bias, eps)
        return project(merge_neighbours(x), norm, LinearParameters(weight, None))
    from .fused.norm import layer_norm as kernel

    normed = kernel(x.contiguous(), norm_weight, norm_bias, eps, True, product_dtype(x))
    # The kernel writes neighbour by neighbour, which keeps its reads and writes contiguous.
    by_neighbour = weight.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1)
    return F.linear(normed, by_neighbour)


def _runs_on_kernels(x: Tensor, channels: int) -> bool:
    return x.is_cuda and x.dtype in DTYPES and channels <= MAX_CHANNELS and not why_not_device(x)
