"""Multi-scale deformable attention as an operator of torch."""

from typing import NamedTuple, Tuple  # noqa: UP035

import torch
import triton
from torch import Tensor

from ..double_backward import plain_gradients
from ..reference.deformable_attention_reference import by_gathering
from .autograd_op import Differentiable, register
from .kernels.deformable_attention_kernels import (
    attend,
    attend_backward,
    cells_of_points,
    gather_value_gradient,
)
from .launch import Launch, remembered

#: Numbers of a block of rows, in which threads lie along channels, and its warps: forward, by bytes
#: of a value, so that a thread reads 16 at once; backward, where it adds four numbers at once, and
#: a warp of its own needs no barriers.
FORWARD, BACKWARD = {2: (1024, 4), 4: (512, 4)}, (128, 1)
#: Points of a level that are in flight at once, at most.
UNROLL = 4
#: Numbers of a block of points whose gradients one value sums.
GATHERED = 512
#: Points of a block that finds their cells.
POINTS = 1024
#: Bytes of float32 sums of 16-bit gradients, of some images at a time, that stay in a GPU's cache.
CACHED = 48 * 2**20


class Sizes(NamedTuple):
    """Of one call: images, keys, rows (heads of queries), and what kernels are compiled for."""

    batch: int
    keys: int
    rows: int
    heads: int
    levels: int
    points: int
    channels: int
    in_pixels: bool

    @classmethod
    def of(cls, value: Tensor, locations: Tensor, in_pixels: bool) -> "Sizes":
        batch, keys, heads, channels = value.shape
        _, queries, _, levels, points, _ = locations.shape
        return cls(batch, keys, queries * heads, heads, levels, points, channels, in_pixels)

    @property
    def constants(self) -> dict[str, int]:
        return {
            "HEADS": self.heads,
            "LEVELS": self.levels,
            "POINTS": self.points,
            "IN_PIXELS": self.in_pixels,
        }


@remembered
def _by_rows(kernel, sizes: Sizes, block: tuple[int, int], scatter: bool | None = None) -> Launch:
    (elements, warps), columns = block, triton.next_power_of_2(sizes.channels)
    rows = max(1, elements // columns)
    unroll = next(n for n in range(min(UNROLL, sizes.points), 0, -1) if sizes.points % n == 0)
    constants = {**sizes.constants, "CHANNELS": sizes.channels, "ROWS": rows, "COLUMNS": columns}
    constants["UNROLL"] = unroll
    if scatter is not None:
        constants["SCATTER"] = scatter
    grid = (triton.cdiv(sizes.rows, rows), sizes.batch)
    return Launch(kernel, grid, (sizes.rows, sizes.keys), constants, {"num_warps": warps})


@remembered
def _cells(sizes: Sizes) -> Launch:
    samples = sizes.batch * sizes.rows * sizes.levels * sizes.points
    numbers, constants = (sizes.rows, sizes.keys, samples), {**sizes.constants, "BLOCK": POINTS}
    grid = (triton.cdiv(samples, POINTS),)
    return Launch(cells_of_points, grid, numbers, constants, {"num_warps": 4})


@remembered
def _gathering(sizes: Sizes) -> Launch:
    columns = triton.next_power_of_2(sizes.channels)
    constants = {**sizes.constants, "CHANNELS": sizes.channels, "COLUMNS": columns}
    constants["SAMPLES"] = max(1, GATHERED // columns)
    grid, numbers = (sizes.keys, sizes.heads, sizes.batch), (sizes.rows, sizes.keys)
    return Launch(gather_value_gradient, grid, numbers, constants, {"num_warps": 1})


def sampled(
    value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor, in_pixels: bool
) -> Tensor:
    """(B, queries, heads * channels) in the dtype of ``value``.

    Args:
        value: (B, keys, heads, channels), like all contiguous and of 16 or 32 bits.
        shapes: (levels, 2), integers.
        locations: (B, queries, heads, levels, points, 2).
        weights: (B, queries, heads, levels, points).
        in_pixels: whether locations are in pixels, from the centre of the first one; else from 0
            to 1 across a map.
    """
    sizes = Sizes.of(value, locations, in_pixels)
    out = value.new_empty((sizes.batch, locations.shape[1], sizes.heads * sizes.channels))
    if out.numel():
        _by_rows(attend, sizes, FORWARD[value.element_size()])(
            value, shapes, locations, weights, out
        )
    return out


def sampled_backward(
    grad_out: Tensor,
    value: Tensor,
    shapes: Tensor,
    locations: Tensor,
    weights: Tensor,
    in_pixels: bool,
) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
    """Gradients of :func:`sampled` for value, locations and weights.

    What points give to values is added up atomically, which takes any order, unless
    ``torch.use_deterministic_algorithms`` is on: then points are sorted, and each value sums its
    own.
    """
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    if not grad_out.numel() or not weights.numel():
        return torch.zeros_like(value), grad_locations, grad_weights
    grad_out = grad_out.contiguous()
    inputs, outputs = (value, shapes, locations, weights), (grad_locations, grad_weights)
    if torch.are_deterministic_algorithms_enabled():
        sizes = Sizes.of(value, locations, in_pixels)
        grad_value = torch.empty_like(value)
        _by_rows(attend_backward, sizes, BACKWARD, False)(grad_out, *inputs, grad_value, *outputs)
        _gather(grad_out, *inputs, grad_value, sizes)
    else:
        grad_value = _scatter(grad_out, *inputs, *outputs, in_pixels)
    return grad_value, grad_locations, grad_weights


def _scatter(
    grad_out, value, shapes, locations, weights, grad_locations, grad_weights, in_pixels
) -> Tensor:
    """The gradient for ``value``, after writing those for locations and weights."""
    batch = len(value)
    if value.dtype == torch.float32:
        grad_value = torch.zeros_like(value)
        launch = _by_rows(attend_backward, Sizes.of(value, locations, in_pixels), BACKWARD, True)
        launch(
            grad_out, value, shapes, locations, weights, grad_value, grad_locations, grad_weights
        )
        return grad_value
    grad_value = torch.empty_like(value)
    together = max(1, min(batch, CACHED // (4 * value[0].numel())))
    sums = value.new_empty((together, *value.shape[1:]), dtype=torch.float32)
    for begin in range(0, batch, together):
        images = slice(begin, min(begin + together, batch))
        part = sums[: images.stop - begin].zero_()
        some = [x[images] for x in (grad_out, value, locations, weights)]
        launch = _by_rows(attend_backward, Sizes.of(some[1], some[2], in_pixels), BACKWARD, True)
        launch(
            some[0], some[1], shapes, some[2], some[3], part, grad_locations[images],
            grad_weights[images],
        )  # fmt: skip
        grad_value[images].copy_(part)
    return grad_value


def _gather(grad_out, value, shapes, locations, weights, grad_value, sizes: Sizes) -> None:
    """``grad_value``, without additions in an order of chance."""
    cells = torch.empty(weights.numel(), dtype=torch.int32, device=value.device)
    _cells(sizes)(shapes, locations, cells)
    cells, order = cells.sort(stable=True)
    count = sizes.batch * sizes.heads * sizes.keys
    numbers = torch.arange(count + 1, dtype=torch.int32, device=value.device)
    first = torch.searchsorted(cells, numbers, out_int32=True)
    _gathering(sizes)(grad_out, shapes, locations, weights, order, first, grad_value)


def _forward(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """:func:`sampled`, of locations across a map."""
    return sampled(value, shapes, locations, weights, False)


def _backward(
    grad_out: Tensor, value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
    """:func:`sampled_backward`, of locations across a map."""
    return sampled_backward(grad_out, value, shapes, locations, weights, False)


_attend = register("multi_scale_deformable_attention", _forward)


@_attend.register_fake
def _(value, shapes, locations, weights):
    batch, _, heads, channels = value.shape
    return value.new_empty((batch, locations.shape[1], heads * channels))


_attend_backward = register("multi_scale_deformable_attention_backward", _backward)


@_attend_backward.register_fake
def _(grad_out, value, shapes, locations, weights):
    return torch.empty_like(value), torch.empty_like(locations), torch.empty_like(weights)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate_by(gradients):
    def differentiate(ctx, grad_out):
        grads = gradients(grad_out, *ctx.saved_tensors)
        needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:])
        value, *others = (g if need else None for g, need in zip(grads, needed, strict=True))
        return value, None, *others

    return differentiate


def _differentiate_again(ctx, grad_out):
    """By the definition, whose gradients have derivatives."""
    value, shapes, locations, weights = ctx.saved_tensors
    pairs = [tuple(pair) for pair in shapes.tolist()]

    def define(value, locations, weights):
        return by_gathering(value, pairs, locations, weights)

    of_value, *others = plain_gradients(define, (value, locations, weights), grad_out)
    return of_value, None, *others


#: Multi-scale deformable attention; arguments and result as of :func:`_forward`.
attention = Differentiable(
    _attend,
    _forward,
    _save,
    _differentiate_by(_attend_backward),
    _differentiate_by(_backward),
    _differentiate_again,
)
#: Its gradients, for who calls them by hand; arguments and results as of :func:`_backward`.
gradients = _backward
