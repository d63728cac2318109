"""A product with each pixel's channels, whose result lies class by class.

A 1x1 convolution leaves its result as its input lies, and cuDNN pads classes to a multiple of 8:
two copies, and a third for losses, which read a class at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .double_backward import differentiable_once


class _ClassScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, low_weight, low_bias):
        ctx.save_for_backward(x, weight, bias, low_weight)
        return _multiply(x, low_weight, low_bias)

    @staticmethod
    @differentiable_once
    def backward(ctx, grad_out):
        x, weight, bias, low_weight = ctx.saved_tensors
        batch, classes, height, width = grad_out.shape
        grad = grad_out.reshape(batch, classes, height * width)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            matrix = low_weight.flatten(1).expand(batch, -1, -1)
            grad_x = torch.bmm(grad.transpose(1, 2), matrix)
            grad_x = grad_x.view(batch, height, width, -1).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            products = torch.bmm(
                grad, _pixels(x)
            )  # of each image, of a hundred thousands of pixels
            grad_weight = products.sum(0, dtype=weight.dtype).view(weight.shape)
        if bias is not None and ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2), dtype=bias.dtype)
        return grad_x, grad_weight, grad_bias, None, None


def class_scores(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``F.conv2d(x, weight, bias)`` of a 1x1 convolution, contiguous.

    Args:
        x: (B, C, H, W); channels-last needs no copy.
        weight: (K, C, 1, 1).
        bias: (K,) or ``None``.
        dtype: in which is multiplied.

    Returns:
        (B, K, H, W) in ``dtype``, contiguous.
    """
    x = x.to(dtype)
    low = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
    if not torch.is_grad_enabled():
        return _multiply(x, *low)
    return _ClassScores.apply(x, weight, bias, *low)


def _pixels(x: Tensor) -> Tensor:
    """(B, H W, C)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    batch, _, height, width = x.shape
    matrix = weight.flatten(1).expand(batch, -1, -1)
    pixels = _pixels(x).transpose(1, 2)
    if bias is None:
        out = torch.bmm(matrix, pixels)
    else:
        out = torch.baddbmm(bias.view(-1, 1), matrix, pixels)
    return out.view(batch, -1, height, width)
