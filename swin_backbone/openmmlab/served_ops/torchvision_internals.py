"""Gradients of torchvision's ops. torchvision has them as ops of their own, undocumented, so that
nothing is computed forward again; where it has not, the op is computed again and differentiated.

Tested with torchvision 0.19 to 0.29, those of torch 2.4 to 2.14.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .common import gradients, torchvision_ops


def roi_align_gradient(
    grad_output: Tensor,
    rois: Tensor,
    shape: tuple[int, ...],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Gradient of ``torchvision.ops.roi_align`` with respect to its input.

    Args:
        grad_output: (K, C, rows, columns).
        rois: (K, 5), in the same dtype.
        shape: of the input.
        spatial_scale: size of a pixel of the boxes, in pixels of the input.
        sampling_ratio: samples of a bin on each axis; 0 for as many as it has pixels.
        aligned: whether pixel centres lie at half integers.
    """
    ops, size = torchvision_ops(), grad_output.shape[2:]
    backward = private_operator("_roi_align_backward")
    if backward is not None:
        return backward(grad_output, rois, spatial_scale, *size, *shape, sampling_ratio, aligned)

    def forward(x: Tensor) -> Tensor:
        return ops.roi_align(x, rois, tuple(size), spatial_scale, sampling_ratio, aligned)

    return gradients(forward, [grad_output.new_zeros(shape)], grad_output)[0]


def deform_conv2d_gradients(
    grad_output: Tensor, operands: tuple[Tensor, ...], geometry: tuple[int, ...], use_mask: bool
) -> tuple[Tensor, ...]:
    """Gradients of ``torch.ops.torchvision.deform_conv2d``.

    Args:
        grad_output: (B, outputs, H, W).
        operands: input, weight, offset, mask and bias, of one dtype.
        geometry: strides, padding, dilations, groups and offset groups, as the op takes them.
        use_mask: whether the mask counts.
    """
    torchvision_ops()  # it registers the ops
    backward = private_operator("_deform_conv2d_backward")
    if backward is not None:
        return backward(grad_output, *operands, *geometry, use_mask)

    def forward(*operands: Tensor) -> Tensor:
        return torch.ops.torchvision.deform_conv2d(*operands, *geometry, use_mask)

    return gradients(forward, operands, grad_output)


def private_operator(name: str):
    return getattr(torch.ops.torchvision, name, None)
