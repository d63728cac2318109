"""Deformable convolutions, plain and modulated: on a GPU samples and a product, else torchvision's.

The first computes in 16 bits where that is asked for, and adds up the map's gradients in an order
of chance, as torchvision's does. Convolutions in groups are torchvision's everywhere. Offsets come
as (y, x) for each place of the kernel, in both libraries. torchvision has the gradients as an op of
its own, so that nothing is computed forward again.
"""
# ruff: noqa: N803 (mmcv passes these arguments by name)

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.deformable_convolution import (
    Geometry,
    deformable_convolution,
    deformable_convolution_gradients,
    runs_as_kernels,
)
from .common import at_least_float32, torchvision_ops, write
from .torchvision_internals import deform_conv2d_gradients


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution v2 (https://arxiv.org/abs/1811.11168, equation 1).

    Args:
        input: (B, C, H, W).
        weight: (D, C / group, kernel_h, kernel_w).
        bias: (D,), or of no elements.
        ones: not needed.
        offset: (B, 2 deformable_group kernel_h kernel_w, H', W'), y and x in pixels; of a larger
            map, the first numbers in memory are read as one of the output's size.
        mask: (B, deformable_group kernel_h kernel_w, H', W'), factors on the samples; likewise.
        output: (B, D, H', W'), written.
        columns: not needed.
        kernel_h: rows of the kernel.
        kernel_w: columns of the kernel.
        stride_h: rows from one place of the kernel to the next.
        stride_w: columns from one place of the kernel to the next.
        pad_h: rows of zeros above and below.
        pad_w: columns of zeros on the left and right.
        dilation_h: rows between the kernel's.
        dilation_w: columns between the kernel's.
        group: groups of channels that are convolved separately.
        deformable_group: groups of channels that have offsets of their own.
        with_bias: whether ``bias`` is one.

    Raises:
        ValueError: if ``offset`` or ``mask`` has fewer numbers than the output needs.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    places, size = deformable_group * kernel_h * kernel_w, output.shape[2:]
    offset, mask = _read("offset", offset, 2 * places, size), _read("mask", mask, places, size)
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`, written to the tensors named ``grad_*``
    (``grad_bias`` with ``with_bias`` only)."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    places, size = deformable_group * kernel_h * kernel_w, grad_output.shape[2:]
    offset, mask = _read("offset", offset, 2 * places, size), _read("mask", mask, places, size)
    found_input, found_weight, found_offset, found_mask, found_bias = _differentiate(
        grad_output, input, weight, offset, mask, geometry, with_bias
    )
    write((grad_input, grad_weight), (found_input, found_weight))
    _write_what_was_read(grad_offset, found_offset)
    _write_what_was_read(grad_mask, found_mask)
    if with_bias:
        grad_bias.copy_(found_bias)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (https://arxiv.org/abs/1703.06211, equation 2).

    As :func:`modulated_deform_conv_forward` without bias and mask; ``k``, ``d``, ``pad`` and
    ``dilation`` are kernel, stride, padding and dilation. ``columns``, ``ones`` and
    ``im2col_step`` are not needed.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_convolve(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients of :func:`deform_conv_forward`, written to ``gradInput`` and ``gradOffset``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    found = _differentiate(gradOutput, input, weight, offset, None, geometry, False)
    write((gradInput, gradOffset), (found[0], found[2]))


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Gradient of :func:`deform_conv_forward` with respect to ``weight``, times ``scale``, written
    to ``gradWeight``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # It does not depend on the values of the weight.
    weight = gradWeight.new_zeros(gradWeight.shape)
    found = _differentiate(gradOutput, input, weight, offset, None, geometry, False)
    gradWeight.copy_(scale * found[1])


def _read(name: str, values: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Offsets or mask of an output of ``size``, (B, channels, *size).

    DyHead, by design or not, gives those of a map of twice the size where it convolves the next
    level. mmcv takes their memory as it is, and published weights were trained like that.
    """
    needed = channels * size[0] * size[1]
    values = values.flatten(1)
    if values.shape[1] < needed:
        raise ValueError(
            f"{name} must have {needed} numbers for each image ({channels} channels of "
            f"{size[0]} x {size[1]}), got {values.shape[1]}"
        )
    return values[:, :needed].view(-1, channels, *size)


def _write_what_was_read(grad: Tensor, found: Tensor) -> None:
    """The gradient of what :func:`_read` took; the rest has none."""
    if found[0].numel() < grad[0].numel():
        whole = found.new_zeros(len(grad), grad[0].numel())
        whole[:, : found[0].numel()] = found.flatten(1)
        found = whole
    grad.copy_(found.view(grad.shape))


def _convolve(input, weight, offset, mask, bias, geometry) -> Tensor:
    if _is_for_kernels(input, weight, offset, geometry):
        input, weight, offset, mask = _samples(input, weight, offset, mask)
        bias = None if bias is None else bias.to(input.dtype)
        return deformable_convolution(input, weight, offset, mask, bias, _named(geometry))
    torchvision_ops()  # it registers the op
    input, weight, offset, mask, bias, use_mask = _operands(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(
        input, weight, offset, mask, bias, *geometry, use_mask
    )


def _differentiate(
    grad_output, input, weight, offset, mask, geometry, with_bias: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of input, weight, offset, mask and bias, without ``with_bias`` of anything."""
    if _is_for_kernels(input, weight, offset, geometry):
        operands = _samples(input, weight, offset, mask)
        return deformable_convolution_gradients(grad_output, *operands, _named(geometry), with_bias)
    *operands, use_mask = _operands(input, weight, offset, mask, None)
    grad_output = grad_output.to(operands[0].dtype)
    return deform_conv2d_gradients(grad_output, tuple(operands), geometry, use_mask)


def _is_for_kernels(input: Tensor, weight: Tensor, offset: Tensor, geometry: tuple) -> bool:
    groups, offset_groups = geometry[6:]
    return groups == 1 and runs_as_kernels(input, weight, offset, offset_groups)


def _named(geometry: tuple[int, ...]) -> Geometry:
    return Geometry(geometry[:2], geometry[2:4], geometry[4:6], geometry[7])


def _samples(input, weight, offset, mask) -> tuple[Tensor, ...]:
    """Operands in the input's dtype, but for offsets; without a mask, of ones."""
    if mask is None:
        mask = offset.new_ones(()).expand(len(offset), offset.shape[1] // 2, *offset.shape[2:])
    return input, weight.to(input.dtype), offset, mask


def _operands(input, weight, offset, mask, bias) -> tuple:
    """What torchvision's ops take, in one dtype, and whether there is a mask."""
    input = at_least_float32(input)
    use_mask = mask is not None
    mask = mask if use_mask else input.new_zeros(len(input), 1)
    bias = input.new_zeros(len(weight)) if bias is None else bias
    rest = [x.to(input.dtype).contiguous() for x in (weight, offset, mask, bias)]
    return (input.contiguous(), *rest, use_mask)
