"""Means over the cells of a map."""

from typing import List  # noqa: UP035

import torch
import triton
from torch import Tensor

from .autograd_op import register
from .kernels.pool_kernels import pool_cells
from .launch import Launch, remembered

PIXELS, COLUMNS = 32, 64


@remembered
def _launch(batch, channels, numbers) -> Launch:
    constants = {"C": channels, "PIXELS": PIXELS, "COLUMNS": COLUMNS}
    grid = (numbers[2] * numbers[3], triton.cdiv(channels, COLUMNS), batch)
    return Launch(pool_cells, grid, numbers, constants, {"num_warps": 4})


def pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.adaptive_avg_pool2d(x, size)`` of a channels-last map, without gradients."""
    run = _adaptive_pool if torch.compiler.is_compiling() else _pool
    return run(x, list(size))


def _empty(x: Tensor, size: List[int]) -> Tensor:  # noqa: UP006
    shape = (*x.shape[:2], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _pool(x: Tensor, size: List[int]) -> Tensor:  # noqa: UP006
    batch, channels, height, width = x.shape
    out = _empty(x, size)
    _launch(batch, channels, (height, width, *size))(x, out)
    return out


_adaptive_pool = register("adaptive_pool", _pool)
_adaptive_pool.register_fake(_empty)
