"""Bilinear resizing as an operator of torch."""

from functools import lru_cache

import torch
import triton
from torch import Tensor

from ..geometry.resampling import axis
from .kernels.resize_kernels import (
    resize_backward,
    resize_backward_last,
    resize_forward,
    resize_forward_last,
)
from .launch import Launch
from .operator import Differentiable, register

#: Pixels or samples of a block of a contiguous map.
PIXELS, WARPS = 256, 4
#: The most channels of a block of a channels-last map, and rows of samples that a program takes.
CHANNELS, ROWS = 512, 8


def is_channels_last(x: Tensor) -> bool:
    """Whether a map is channels-last; of one pixel, whose elements lie alike, as strides say."""
    if x.is_contiguous() and x.stride(3) == 1:
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


def as_read(x: Tensor) -> Tensor:
    """``x`` as kernels read it: contiguous or channels-last."""
    return x if is_channels_last(x) else x.contiguous()


@lru_cache(maxsize=256)
def _launch(kernel, planes, pixels, numbers) -> Launch:
    """Of a contiguous map."""
    grid = (triton.cdiv(pixels, PIXELS), triton.cdiv(planes, 4))
    options = {"num_warps": WARPS}
    return Launch(kernel, grid, (planes, *numbers), {"BLOCK": PIXELS}, options)


@lru_cache(maxsize=256)
def _launch_last(kernel, batch, channels, programs, numbers, constants) -> Launch:
    """Of a channels-last map."""
    block = min(CHANNELS, max(32, triton.next_power_of_2(channels)))
    constants = {"CHANNELS": channels, "BLOCK": block, **dict(constants)}
    grid = (programs, triton.cdiv(channels, block), batch)
    return Launch(kernel, grid, numbers, constants, {"num_warps": max(1, block // 256)})


def _axes(low: tuple[int, int], size: tuple[int, int], align_corners: bool, device):
    return [
        axis(samples, positions, align_corners, torch.float32, device)
        for samples, positions in zip(low, size, strict=True)
    ]


def _empty(x: Tensor, height: int, width: int, last: bool) -> Tensor:
    """A map like ``x`` of another size."""
    memory_format = torch.channels_last if last else torch.contiguous_format
    shape = (*x.shape[:2], height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def _forward(x: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """``x`` (B, C, h, w), as :func:`as_read` says, resized to (B, C, height, width)."""
    batch, channels, *low = x.shape
    last = is_channels_last(x)
    rows, columns = _axes(low, (height, width), align_corners, x.device)
    out = _empty(x, height, width, last)
    sizes = (height, width, *low)
    if last:
        launch = _launch_last(resize_forward_last, batch, channels, low[0] * low[1], sizes, ())
        launch(x, rows.first, rows.weight, columns.first, columns.weight, out)
    else:
        launch = _launch(resize_forward, batch * channels, height * width, sizes)
        launch(x, rows.lower, rows.weight, columns.lower, columns.weight, out)
    return out


def _backward(grad_out: Tensor, low_height: int, low_width: int, align_corners: bool) -> Tensor:
    """Gradient of :func:`_forward` for ``x`` (B, C, low_height, low_width)."""
    grad_out = as_read(grad_out)
    batch, channels, height, width = grad_out.shape
    last = is_channels_last(grad_out)
    low = (low_height, low_width)
    rows, columns = _axes(low, (height, width), align_corners, grad_out.device)
    grad_x = _empty(grad_out, *low, last)
    sizes = (height, width, *low)
    if last:
        programs = low_width * triton.cdiv(low_height, ROWS)
        rows_each = (("ROWS", ROWS),)
        launch = _launch_last(resize_backward_last, batch, channels, programs, sizes, rows_each)
        launch(
            grad_out, rows.first, rows.weight, columns.first, columns.lower, columns.weight, grad_x
        )
    else:
        sizes = (*sizes, rows.reach, columns.reach)
        launch = _launch(resize_backward, batch * channels, low_height * low_width, sizes)
        launch(
            grad_out, rows.first, rows.lower, rows.weight, columns.first, columns.lower,
            columns.weight, grad_x,
        )  # fmt: skip
    return grad_x


_resize = register("resize_bilinear", _forward)


@_resize.register_fake
def _(x, height, width, align_corners):
    return _empty(x, height, width, is_channels_last(x))


_resize_backward = register("resize_bilinear_backward", _backward)


@_resize_backward.register_fake
def _(grad_out, low_height, low_width, align_corners):
    return _empty(grad_out, low_height, low_width, is_channels_last(as_read(grad_out)))


def _save(ctx, inputs, output):
    x, _, _, ctx.align_corners = inputs
    ctx.low = x.shape[2:]


def _differentiate_by(gradient):
    def differentiate(ctx, grad_out):
        return gradient(grad_out, *ctx.low, ctx.align_corners), None, None, None

    return differentiate


#: Bilinear resizing; arguments and result as of :func:`_forward`.
resize = Differentiable(
    _resize,
    _forward,
    _save,
    _differentiate_by(_resize_backward),
    _differentiate_by(_backward),
)
