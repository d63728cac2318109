"""Means over the cells of a map."""

import torch
import triton
from torch import Tensor

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
    batch, channels, height, width = x.shape
    out = torch.empty(
        (batch, channels, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    _launch(batch, channels, (height, width, *size))(x, out)
    return out
