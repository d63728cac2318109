"""Zero padding at the bottom and right, up to the last whole patch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..symbolic_shapes import known_zero


def corner_pad(
    x: Tensor, kernel_size: tuple[int, int], stride: tuple[int, int], dims: tuple[int, int]
) -> Tensor:
    """Pad so that kernels laid at every ``stride`` cover the whole of ``x``.

    Args:
        x: a map with its two spatial axes anywhere.
        kernel_size: rows and columns of the kernel.
        stride: step between kernels on each axis.
        dims: which axes of ``x`` are rows and columns, ``(1, 2)`` or ``(2, 3)``.

    Returns:
        ``x``, longer at the end of the two axes, so that there are ``ceil(size / stride)``
        kernels on each.
    """
    bottom, right = (
        _missing(x.shape[dim], k, s) for dim, k, s in zip(dims, kernel_size, stride, strict=True)
    )
    if known_zero(bottom, right):
        return x
    behind = (0, 0) * (x.dim() - 1 - dims[1])
    return F.pad(x, (*behind, 0, right, 0, bottom))


def _missing(size: int, kernel: int, stride: int) -> int:
    """Rows that the last kernel reaches beyond ``size``."""
    kernels = (size + stride - 1) // stride
    if kernel == stride:  # kernels tile the axis, so none leaves rows uncovered
        return kernels * stride - size
    return max((kernels - 1) * stride + kernel - size, 0)
