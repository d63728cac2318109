"""Zero padding at the bottom and right, up to the last whole patch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
        max((-(-x.shape[dim] // s) - 1) * s + k - x.shape[dim], 0)
        for dim, k, s in zip(dims, kernel_size, stride, strict=True)
    )
    if bottom == 0 and right == 0:
        return x
    behind = (0, 0) * (x.dim() - 1 - dims[1])
    return F.pad(x, (*behind, 0, right, 0, bottom))
