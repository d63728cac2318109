"""From image to tokens: patches, their projection, and its norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import dispatch, triton
from .geometry.corner_pad import corner_pad
from .layer_parameters import NormParameters, compute_dtype
from .norm import layer_norm, norm_dtype
from .weight_copies import cast_weight


def embed_patches(image: Tensor, weight: Tensor, bias: Tensor, norm: NormParameters) -> Tensor:
    """Patches that do not overlap, projected and normed (Swin Transformer, section 3.1).

    Args:
        image: (B, channels, H, W).
        weight: (C, channels, rows of a patch, columns of a patch), as a convolution's.
        bias: (C,).
        norm: over C channels.

    Returns:
        (B, ceil(H / rows), ceil(W / columns), C), in the dtype of :func:`layer_norm`.
    """
    if dispatch.patch_embedding(image, weight) != "triton":
        return layer_norm(project_patches(image, weight, bias), *norm)
    low = cast_weight(weight, compute_dtype(image)).flatten(1)
    return triton.patch_embed_op.patch_embed(
        image.contiguous(), weight.flatten(1), bias, norm.weight, norm.bias, low.contiguous(),
        norm.eps, list(weight.shape[2:]), norm_dtype(image),
    )  # fmt: skip


def project_patches(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """:func:`embed_patches` without the norm."""
    patch = tuple(weight.shape[2:])
    if image.is_cuda:  # a convolution would write channels first, to be copied to the back
        return project(cut_patches(image, patch), weight, bias)
    image = corner_pad(image, patch, patch, dims=(2, 3))
    return F.conv2d(image, weight, bias, patch).permute(0, 2, 3, 1)


def cut_patches(image: Tensor, patch: tuple[int, int]) -> Tensor:
    """(B, channels, H, W) to (B, rows, columns, pixels of a patch), in the compute dtype."""
    rows, columns = patch
    image = corner_pad(image, patch, patch, dims=(2, 3))
    patches = image.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).permute(0, 2, 4, 1, 3, 5)
    # In one pass, where the dtype changes and where it does not.
    laid_out = patches.to(compute_dtype(image), memory_format=torch.contiguous_format)
    return laid_out.flatten(3)


def project(patches: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution whose kernel is its stride is a linear layer on patches."""
    return F.linear(patches, weight.flatten(1), bias)
