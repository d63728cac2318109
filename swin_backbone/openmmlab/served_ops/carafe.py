"""CARAFE, content-aware upsampling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .common import at_least_float32, gradients, write


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """CARAFE (https://arxiv.org/abs/1905.02188, equation 4): each pixel of the output is a weighted
    sum of the pixels around the one that it lies in.

    Args:
        features: (B, C, H, W).
        masks: (B, group_size kernel_size^2, H scale_factor, W scale_factor), the weights.
        rfeatures: of the shape of ``features``, written: what the backward pass needs of them.
        routput: not needed.
        rmasks: not needed.
        output: (B, C, H scale_factor, W scale_factor), written.
        kernel_size: rows and columns of pixels that are summed, odd; outside of the map they are 0.
        group_size: groups of channels that have weights of their own.
        scale_factor: rows and columns of the output for one of ``features``.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of :func:`carafe_forward`, written to ``bottom_grad`` and ``mask_grad``."""
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor
    )


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """:func:`carafe_forward` without room to work in."""
    output.copy_(_reassemble(features, masks, kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of :func:`carafe_naive_forward`, written to ``bottom_grad`` and ``mask_grad``."""

    def reassemble(features, masks):
        return _reassemble(features, masks, kernel_size, group_size, scale_factor)

    write((bottom_grad, mask_grad), gradients(reassemble, (features, masks), top_grad))


def _reassemble(features, masks, kernel_size, groups, scale) -> Tensor:
    features, masks = at_least_float32(features), at_least_float32(masks)
    batch, channels, height, width = features.shape
    padded = functional.pad(features, (kernel_size // 2,) * 4)
    padded = padded.view(batch, groups, channels // groups, *padded.shape[2:])
    # Pixels of the output as those of the input that they lie in, and places inside them.
    weights = masks.view(batch, groups, kernel_size**2, height, scale, width, scale)
    output = features.new_zeros(batch, groups, channels // groups, height, scale, width, scale)
    # One place of the kernel at a time: no copy of the features for each of them.
    for place in range(kernel_size**2):
        row, column = divmod(place, kernel_size)
        part = padded[..., row : row + height, column : column + width]
        output = torch.addcmul(output, part[..., :, None, :, None], weights[:, :, place, None])
    return output.reshape(batch, channels, height * scale, width * scale)
