"""Batch norm and ReLU of channels-last maps, forward and backward."""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from .kernels.batch_norm_kernels import (
    channel_statistics,
    finish_statistics,
    gradient_sums,
    normalise_channels,
    normalise_channels_backward,
    normalise_few,
    normalise_few_backward,
)
from .launch import Launch, remembered
from .memory_formats import pitch_of
from .partial_sums import summed

#: Rows and columns of a block; programs that share the rows where all are summed.
ROWS, COLUMNS, PROGRAMS = 16, 128, 264
FEW_ROWS = 32
#: Rows up to which one kernel does all: of few rows, launches cost more than idle processors do.
SMALL = 2048


def _blocks(channels: int) -> dict[str, int]:
    columns = min(COLUMNS, max(16, triton.next_power_of_2(channels)))
    return {"C": channels, "ROWS": ROWS * COLUMNS // columns, "COLUMNS": columns}


def _shared(rows: int, channels: int) -> tuple[dict[str, int], tuple[int, int], int]:
    """Blocks, grid, and rows of a program."""
    blocks = _blocks(channels)
    columns = triton.cdiv(channels, blocks["COLUMNS"])
    programs = max(1, min(rows // FEW_ROWS, PROGRAMS // columns))
    each = triton.cdiv(triton.cdiv(rows, programs), blocks["ROWS"]) * blocks["ROWS"]
    return blocks, (triton.cdiv(rows, each), columns), each


@remembered
def _statistics_launches(rows, channels, eps, momentum) -> tuple[Launch, Launch]:
    blocks, grid, each = _shared(rows, channels)
    first = Launch(channel_statistics, grid, (rows, each), blocks, {"num_warps": 4})
    numbers = (rows, each, grid[0], eps, momentum)
    few = {"C": channels, "ROWS": 64, "COLUMNS": 16}
    second = Launch(finish_statistics, (triton.cdiv(channels, 16),), numbers, few, {"num_warps": 4})
    return first, second


@remembered
def apply_launch(kernel, numbers, channels, **constants) -> Launch:
    blocks = {**_blocks(channels), **constants}
    grid = (triton.cdiv(numbers[0], blocks["ROWS"]), triton.cdiv(channels, blocks["COLUMNS"]))
    return Launch(kernel, grid, numbers, blocks, {"num_warps": 4})


@remembered
def _small_launch(kernel, numbers, channels, relu) -> Launch:
    constants = {"C": channels, "RELU": relu, "ROWS": 128, "COLUMNS": 16}
    return Launch(kernel, (triton.cdiv(channels, 16),), numbers, constants, {"num_warps": 4})


@remembered
def _sums_launch(rows, pitch, channels, relu) -> Launch:
    blocks, grid, each = _shared(rows, channels)
    constants = {**blocks, "RELU": relu}
    return Launch(gradient_sums, grid, (rows, each, pitch), constants, {"num_warps": 4})


def normalise_batch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running: Sequence[Tensor],
    eps: float,
    momentum: float,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Batch norm by the batch's own statistics, which move the running ones.

    Args:
        x: (B, C, H, W), channels-last, more than one pixel.
        weight: (C,), as ``bias``.
        running: mean and variance (C,) and the number of batches, which change in place.
        eps: added to the variance.
        momentum: how much of the batch's statistics the running ones take.
        relu: clip at zero.

    Returns:
        The normed map, and mean and one over the standard deviation, (2, C) float32.
    """
    channels = x.shape[1]
    rows = x.numel() // channels
    statistics = x.new_empty((2, channels), dtype=torch.float32)
    out = torch.empty_like(x)
    if rows <= SMALL:
        launch = _small_launch(normalise_few, (rows, eps, momentum), channels, relu)
        launch(x, *running, weight, bias, statistics, out)
        return out, statistics
    first, second = _statistics_launches(rows, channels, eps, momentum)
    partials = x.new_empty((first.grid[0], 2, channels), dtype=torch.float32)
    first(x, partials)
    second(partials, *running, statistics)
    apply_launch(normalise_channels, (rows,), channels, RELU=relu)(x, statistics, weight, bias, out)
    return out, statistics


def normalise_batch_backward(
    grad_out: Tensor, x: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`normalise_batch` for ``x``, and, in float32, weight and bias."""
    channels = x.shape[1]
    rows = x.numel() // channels
    pitch = pitch_of(grad_out)
    if pitch is None:
        grad_out, pitch = grad_out.contiguous(memory_format=torch.channels_last), channels
    grad_x = torch.empty_like(x)
    if rows <= SMALL:
        sums = x.new_empty((2, channels), dtype=torch.float32)
        launch = _small_launch(normalise_few_backward, (rows, pitch), channels, relu)
        launch(grad_out, x, statistics, weight, bias, sums, grad_x)
        return grad_x, *sums.unbind()
    launch = _sums_launch(rows, pitch, channels, relu)
    partials = x.new_empty((launch.grid[0], 2 * channels), dtype=torch.float32)
    launch(grad_out, x, statistics, weight, bias, partials)
    (sums,) = summed([partials], [2 * channels])
    apply_launch(normalise_channels_backward, (rows, pitch), channels, RELU=relu)(
        grad_out, x, statistics, weight, bias, sums, grad_x
    )
    return grad_x, *sums.view(2, channels).unbind()
