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
def _statistics_launch(rows, channels) -> Launch:
    blocks, grid, each = _shared(rows, channels)
    return Launch(channel_statistics, grid, (rows, each), blocks, {"num_warps": 4})


@remembered
def finish_launch(kernel, numbers, channels) -> Launch:
    """Of a kernel that puts together what programs left."""
    few = {"C": channels, "ROWS": 64, "COLUMNS": 16}
    return Launch(kernel, (triton.cdiv(channels, 16),), numbers, few, {"num_warps": 4})


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


def partial_statistics(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Mean and sum of squared differences of the rows of each program, (programs, 2, C) float32;
    number of rows, those of a program, and programs."""
    channels = x.shape[1]
    launch = _statistics_launch(x.numel() // channels, channels)
    partials = x.new_empty((launch.grid[0], 2, channels), dtype=torch.float32)
    launch(x, partials)
    return partials, (*launch.numbers, launch.grid[0])


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
    partials, numbers = partial_statistics(x)
    finish = finish_launch(finish_statistics, (*numbers, eps, momentum), channels)
    finish(partials, *running, statistics)
    apply_launch(normalise_channels, (rows,), channels, RELU=relu)(x, statistics, weight, bias, out)
    return out, statistics


def with_pitch(grad_out: Tensor) -> tuple[Tensor, int]:
    """A gradient whose pixels lie in order, and the elements from one to the next."""
    pitch = pitch_of(grad_out)
    if pitch is None:
        return grad_out.contiguous(memory_format=torch.channels_last), grad_out.shape[1]
    return grad_out, pitch


def gradient_sums_of(
    grad_out: Tensor,
    pitch: int,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    relu: bool,
) -> Tensor:
    """Gradients for weight and bias, (2, C) float32."""
    channels = x.shape[1]
    launch = _sums_launch(x.numel() // channels, pitch, channels, relu)
    partials = x.new_empty((launch.grid[0], 2 * channels), dtype=torch.float32)
    launch(grad_out, x, statistics, weight, bias, partials)
    (sums,) = summed([partials], [2 * channels])
    return sums.view(2, channels)


def backward_launch(rows: int, pitch: int, channels: int, relu: bool, together: bool) -> Launch:
    options = {"RELU": relu, "TOGETHER": together}
    return apply_launch(normalise_channels_backward, (rows, pitch), channels, **options)


def normalise_batch_backward(
    grad_out: Tensor, x: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`normalise_batch` for ``x``, and, in float32, weight and bias."""
    channels = x.shape[1]
    rows = x.numel() // channels
    grad_out, pitch = with_pitch(grad_out)
    grad_x = torch.empty_like(x)
    if rows <= SMALL:
        sums = x.new_empty((2, channels), dtype=torch.float32)
        launch = _small_launch(normalise_few_backward, (rows, pitch), channels, relu)
        launch(grad_out, x, statistics, weight, bias, sums, grad_x)
        return grad_x, *sums.unbind()
    sums = gradient_sums_of(grad_out, pitch, x, statistics, weight, bias, relu)
    launch = backward_launch(rows, pitch, channels, relu, together=False)
    launch(grad_out, x, statistics, weight, bias, sums, grad_x)
    return grad_x, *sums.unbind()
