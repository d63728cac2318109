"""A convolution, batch norm and ReLU as one step, forward and backward.

For eager use: running statistics change in place. Maps are channels-last.
"""

import torch
import triton
from torch import Tensor

from ..double_backward import differentiable_once
from ..torch_internals.devices import addmm_relu
from ..torch_internals.module_contents import buffers
from .kernels.batch_norm_kernels import (
    channel_statistics,
    finish_statistics,
    fold_norm,
    gradient_sums,
    normalise_channels,
    normalise_channels_backward,
    normalise_few,
    normalise_few_backward,
    shift_channels,
)
from .launch import Launch, remembered
from .linear_op import weight_gradient
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
def _apply_launch(kernel, numbers, channels, **constants) -> Launch:
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


def normalise_batch(x: Tensor, norm: "torch.nn.BatchNorm2d", relu: bool) -> tuple[Tensor, Tensor]:
    """Batch norm by the batch's own statistics, which move the running ones.

    Args:
        x: (B, C, H, W), channels-last, more than one pixel.
        norm: with weight, bias and running statistics.
        relu: clip at zero.

    Returns:
        The normed map, and mean and one over the standard deviation, (2, C) float32.
    """
    channels = x.shape[1]
    rows = x.numel() // channels
    statistics = x.new_empty((2, channels), dtype=torch.float32)
    own = buffers(norm)
    running = own["running_mean"], own["running_var"], own["num_batches_tracked"]
    out = torch.empty_like(x)
    if rows <= SMALL:
        launch = _small_launch(normalise_few, (rows, norm.eps, norm.momentum), channels, relu)
        launch(x, *running, norm.weight, norm.bias, statistics, out)
        return out, statistics
    first, second = _statistics_launches(rows, channels, norm.eps, norm.momentum)
    partials = x.new_empty((first.grid[0], 2, channels), dtype=torch.float32)
    first(x, partials)
    second(partials, *running, statistics)
    _apply_launch(normalise_channels, (rows,), channels, RELU=relu)(
        x, statistics, norm.weight, norm.bias, out
    )
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
    grad_weight, grad_bias = summed([partials], [channels, channels])
    _apply_launch(normalise_channels_backward, (rows, pitch), channels, RELU=relu)(
        grad_out, x, statistics, weight, bias, grad_weight, grad_x
    )
    return grad_x, grad_weight, grad_bias


def is_pointwise(conv: "torch.nn.Conv2d") -> bool:
    """Whether a convolution is a product with each pixel's channels."""
    return (
        conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )


def _rows(x: Tensor) -> Tensor:
    """The pixels of a channels-last map (B, C, H, W) as a matrix (pixels, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: Tensor, like: Tensor) -> Tensor:
    """The map (B, C, H, W), channels-last, of a matrix (pixels, C)."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def _convolve(x: Tensor, low: Tensor, conv) -> Tensor:
    out = torch.convolution(
        x, low, None, conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups
    )
    return out.contiguous(memory_format=torch.channels_last)


class _ConvolutionNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, conv_weight, norm_weight, norm_bias, low, conv, norm, relu):
        ctx.pointwise = x.dtype != torch.float32 and is_pointwise(conv)
        if ctx.pointwise:
            convolved = _map(torch.mm(_rows(x), low.flatten(1).t()), x)
        else:
            convolved = _convolve(x, low, conv)
        out, statistics = normalise_batch(convolved, norm, relu)
        ctx.save_for_backward(x, conv_weight, norm_weight, norm_bias, low, convolved, statistics)
        ctx.conv, ctx.relu = conv, relu
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad_out):
        x, conv_weight, norm_weight, norm_bias, low, convolved, statistics = ctx.saved_tensors
        grad, grad_weight, grad_bias = normalise_batch_backward(
            grad_out, convolved, statistics, norm_weight, norm_bias, ctx.relu
        )
        wants_x, wants_conv = ctx.needs_input_grad[:2]
        if ctx.pointwise:
            rows = _rows(grad)
            grad_x = _map(torch.mm(rows, low.flatten(1)), x) if wants_x else None
            grad_conv = None
            if wants_conv:
                grad_conv = weight_gradient(rows, _rows(x)).to(conv_weight.dtype)
                grad_conv = grad_conv.as_strided(conv_weight.shape, conv_weight.stride())
        else:
            conv = ctx.conv
            grad_x, grad_conv, _ = torch.ops.aten.convolution_backward(
                grad, x, low, None, conv.stride, conv.padding, conv.dilation, False, (0, 0),
                conv.groups, (wants_x, wants_conv, False),
            )  # fmt: skip
            grad_conv = None if grad_conv is None else grad_conv.to(conv_weight.dtype)
        grads = grad_weight.to(norm_weight.dtype), grad_bias.to(norm_bias.dtype)
        return grad_x, grad_conv, *grads, None, None, None, None


def convolution_norm(x: Tensor, low: Tensor, conv, norm, relu: bool) -> Tensor:
    """``relu(norm(conv(x)))`` in training.

    Args:
        x: (B, C, H, W), in the compute dtype.
        low: the convolution's weight in that dtype.
        conv: without a bias.
        norm: ``nn.BatchNorm2d``, as of :func:`normalise_batch`.
        relu: clip at zero.
    """
    return _ConvolutionNorm.apply(x, conv.weight, norm.weight, norm.bias, low, conv, norm, relu)


@remembered
def _fold_launch(outputs, elements, eps) -> Launch:
    block = min(1024, triton.next_power_of_2(elements))
    grid = (triton.cdiv(elements, block), outputs)
    return Launch(fold_norm, grid, (elements, eps), {"BLOCK": block}, {"num_warps": 4})


def folded_convolution(x: Tensor, conv, norm, relu: bool) -> Tensor:
    """``relu(norm(conv(x)))`` by running statistics, without gradients.

    The norm's scale goes into the weight while it is cast, which has to be done anyway: nothing is
    remembered that could be out of date.
    """
    weight, channels = conv.weight, conv.weight.shape[0]
    folded = torch.empty_like(weight, dtype=x.dtype)
    pointwise = x.dtype != torch.float32 and is_pointwise(conv)
    shift = weight.new_empty(channels, dtype=x.dtype if pointwise else torch.float32)
    own = buffers(norm)
    _fold_launch(channels, weight[0].numel(), norm.eps)(
        weight, own["running_mean"], own["running_var"], norm.weight, norm.bias, folded, shift
    )
    if pointwise:
        rows, matrix = _rows(x), folded.flatten(1).t()
        if relu:
            return _map(addmm_relu(shift, rows, matrix), x)
        return _map(torch.addmm(shift, rows, matrix), x)
    out = _convolve(x, folded, conv)
    rows = out.numel() // channels
    _apply_launch(shift_channels, (rows,), channels, RELU=relu)(out, shift)
    return out
