"""Bilinear resizing as an operator of torch."""

from collections.abc import Sequence
from typing import List  # noqa: UP035

import torch
import triton
from torch import Tensor

from ..double_backward import differentiable_once
from ..geometry.resampling import axis
from .autograd_op import Differentiable, register
from .kernels.resize_kernels import (
    resize_backward,
    resize_backward_last,
    resize_forward,
    resize_forward_last,
)
from .launch import Launch, remembered
from .memory_formats import is_channels_last, pitch_of

#: Pixels or samples of a block of a contiguous map.
PIXELS, WARPS = 256, 4
#: The most channels of a block of a channels-last map, and rows of samples that a program takes;
#: fewer where these programs would not fill a large GPU.
CHANNELS, ROWS, PROGRAMS = 512, 8, 1056


def as_read(x: Tensor) -> Tensor:
    """``x`` as kernels read it: contiguous or channels-last."""
    return x if is_channels_last(x) else x.contiguous()


@remembered
def _launch(kernel, planes, pixels, numbers) -> Launch:
    """Of a contiguous map."""
    grid = (triton.cdiv(pixels, PIXELS), triton.cdiv(planes, 4))
    options = {"num_warps": WARPS}
    return Launch(kernel, grid, (planes, *numbers), {"BLOCK": PIXELS}, options)


@remembered
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


def _rows_each(batch: int, low_height: int, low_width: int) -> int:
    """Rows of samples of a program: each reads the row before its first one once more."""
    enough = batch * low_height * low_width // PROGRAMS
    return max(1, min(ROWS, enough))


def _forward(x: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """``x`` (B, C, h, w), as :func:`as_read` says, resized to (B, C, height, width)."""
    out = _empty(x, height, width, is_channels_last(x))
    _write(x, out, align_corners)
    return out


def _write(x: Tensor, out: Tensor, align_corners: bool, base: Tensor | None = None) -> None:
    """``x`` resized into ``out``, which is laid out alike, or a part of such a map's channels;
    ``base``, a channels-last map, is added."""
    batch, channels, *low = x.shape
    height, width = out.shape[2:]
    rows, columns = _axes(low, (height, width), align_corners, x.device)
    sizes = (height, width, *low)
    if is_channels_last(x):
        others = (("PITCH", pitch_of(out)), ("ADD", base is not None))
        launch = _launch_last(resize_forward_last, batch, channels, low[0] * low[1], sizes, others)
        base = out if base is None else base
        launch(x, rows.first, rows.weight, columns.first, columns.weight, base, out)
    else:
        launch = _launch(resize_forward, batch * channels, height * width, sizes)
        launch(x, rows.lower, rows.weight, columns.lower, columns.weight, out)


def _backward(grad_out: Tensor, low_height: int, low_width: int, align_corners: bool) -> Tensor:
    """Gradient of :func:`_forward` for ``x`` (B, C, low_height, low_width)."""
    batch, channels, height, width = grad_out.shape
    pitch = pitch_of(grad_out)
    last = pitch is not None
    grad_out = grad_out if last else grad_out.contiguous()
    low = (low_height, low_width)
    rows, columns = _axes(low, (height, width), align_corners, grad_out.device)
    grad_x = _empty(grad_out, *low, last)
    sizes = (height, width, *low)
    if last:
        rows_each = _rows_each(batch, *low)
        programs = low_width * triton.cdiv(low_height, rows_each)
        sizes, pitches = (*sizes, rows_each), (("PITCH", pitch),)
        launch = _launch_last(resize_backward_last, batch, channels, programs, sizes, pitches)
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
    return _empty(grad_out, low_height, low_width, pitch_of(grad_out) is not None)


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


def _add_forward(base: Tensor, x: Tensor, align_corners: bool) -> Tensor:
    """``base`` plus ``x`` at its size, both channels-last."""
    out = torch.empty_like(base)
    _write(x, out, align_corners, base)
    return out


_add = register("add_resized", _add_forward)
_add.register_fake(lambda base, x, align_corners: torch.empty_like(base))


def _save_added(ctx, inputs, output):
    _, x, ctx.align_corners = inputs
    ctx.low = x.shape[2:]


def _differentiate_added_by(gradient):
    def differentiate(ctx, grad_out):
        grad_x = None
        if ctx.needs_input_grad[1]:
            grad_x = gradient(grad_out, *ctx.low, ctx.align_corners)
        return grad_out, grad_x, None

    return differentiate


#: Resizing and a sum; arguments and result as of :func:`_add_forward`.
add = Differentiable(
    _add,
    _add_forward,
    _save_added,
    _differentiate_added_by(_resize_backward),
    _differentiate_added_by(_backward),
)


def _copy(x: Tensor, part: Tensor) -> None:
    """``x`` into a part of a map's channels, in words of 8 bytes: torch copies what has gaps an
    element at a time."""
    x, part = x.permute(0, 2, 3, 1), part.permute(0, 2, 3, 1)
    together = 8 // x.element_size()
    places = (x.shape[3], x.stride(2), part.stride(2), x.storage_offset(), part.storage_offset())
    if all(place % together == 0 for place in places):
        x, part = x.view(torch.int64), part.view(torch.int64)
    part.copy_(x)


def _concatenated_like(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    first = maps[0]
    shape = (first.shape[0], sum(x.shape[1] for x in maps), *size)
    return torch.empty(
        shape, dtype=first.dtype, device=first.device, memory_format=torch.channels_last
    )


def _concatenate(
    maps: Sequence[Tensor],
    size: List[int],  # noqa: UP006
    align_corners: bool,
) -> Tensor:
    """Channels-last maps (B, C_i, h_i, w_i), resized into their parts of (B, sum of C_i, *size)."""
    out = _concatenated_like(maps, size)
    for x, part in zip(maps, out.split([x.shape[1] for x in maps], 1), strict=True):
        if list(x.shape[2:]) == list(size):
            _copy(x, part)
        else:
            _write(x, part, align_corners)
    return out


def _parts(grad_out: Tensor, shapes: Sequence[Sequence[int]], align_corners: bool, gradient):
    """Gradients of :func:`_concatenate` for its maps, of ``shapes`` (C_i, h_i, w_i)."""
    size = grad_out.shape[2:]
    parts = grad_out.split([channels for channels, _, _ in shapes], 1)
    return [
        part if shape[1:] == size else gradient(part, *shape[1:], align_corners)
        for part, shape in zip(parts, shapes, strict=True)
    ]


class _Concatenated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, size, align_corners, *maps):
        ctx.align_corners, ctx.shapes = align_corners, [x.shape[1:] for x in maps]
        return _concatenate(maps, size, align_corners)

    @staticmethod
    @differentiable_once
    def backward(ctx, grad_out):
        return None, None, *_parts(grad_out, ctx.shapes, ctx.align_corners, _backward)


_concatenate_resized = register("concatenate_resized", _concatenate)
_concatenate_resized.register_fake(lambda maps, size, align_corners: _concatenated_like(maps, size))


def _save_shapes(ctx, inputs, output):
    maps, _, ctx.align_corners = inputs
    ctx.shapes = [x.shape[1:] for x in maps]


def _differentiate_concatenated(ctx, grad_out):
    return _parts(grad_out, ctx.shapes, ctx.align_corners, _resize_backward), None, None


_concatenate_resized.register_autograd(_differentiate_concatenated, setup_context=_save_shapes)


def concatenate(maps: Sequence[Tensor], size: tuple[int, int], align_corners: bool) -> Tensor:
    """As :func:`_concatenate`."""
    if torch.compiler.is_compiling():
        return _concatenate_resized(list(maps), list(size), align_corners)
    return _Concatenated.apply(torch.Size(size), align_corners, *maps)
