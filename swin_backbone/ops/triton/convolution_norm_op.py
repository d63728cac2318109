"""A convolution, batch norm and ReLU as one step, forward and backward.

Maps are channels-last. In eager use running statistics change in place. An operator that compilers
see must not do that and have a gradient: it is given the statistics, and returns what they become.
"""

from collections.abc import Sequence
from typing import List, Tuple  # noqa: UP035

import torch
import torch.distributed as dist
import triton
from torch import Tensor

from ..double_backward import differentiable_once
from ..torch_internals.devices import addmm_relu
from ..torch_internals.module_contents import buffers
from .autograd_op import register
from .batch_norm_op import apply_launch, normalise_batch, normalise_batch_backward
from .kernels.batch_norm_kernels import fold_norm, shift_channels
from .launch import Launch, remembered
from .linear_op import weight_gradient
from .synchronized_norm_op import normalise, normalise_backward

_Geometry = List[int]  # noqa: UP006


def geometry_of(conv: "torch.nn.Conv2d") -> list[int]:
    """Stride, padding and dilation along rows and columns, and groups."""
    return [*conv.stride, *conv.padding, *conv.dilation, conv.groups]


def is_pointwise(weight: Tensor, geometry: _Geometry) -> bool:
    """Whether a convolution is a product with each pixel's channels."""
    *moves, _, _, groups = geometry
    return weight.shape[2:] == (1, 1) and moves == [1, 1, 0, 0] and groups == 1


def _is_product(x: Tensor, weight: Tensor, geometry: _Geometry) -> bool:
    """Whether it is also computed as one: cuDNN's tf32 is another switch than cuBLAS's."""
    return x.dtype != torch.float32 and is_pointwise(weight, geometry)


def _rows(x: Tensor) -> Tensor:
    """The pixels of a channels-last map (B, C, H, W) as a matrix (pixels, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: Tensor, like: Tensor) -> Tensor:
    """The map (B, C, H, W), channels-last, of a matrix (pixels, C)."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def _empty_last(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A channels-last map of the kind of ``x``."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _by_cudnn(geometry: _Geometry) -> tuple:
    """What torch's convolutions, forward and backward, take after the weight and bias."""
    return geometry[:2], geometry[2:4], geometry[4:6], False, (0, 0), geometry[6]


def _convolve(x: Tensor, low: Tensor, geometry: _Geometry) -> Tensor:
    """The convolution of ``x`` with ``low``, of one dtype, channels-last."""
    if _is_product(x, low, geometry):
        return _map(torch.mm(_rows(x), low.flatten(1).t()), x)
    out = torch.convolution(x, low, None, *_by_cudnn(geometry))
    return out.contiguous(memory_format=torch.channels_last)


def _convolve_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    low: Tensor,
    geometry: _Geometry,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`_convolve` for ``x``, and for ``weight``, of which ``low`` is a copy."""
    wants_x, wants_weight = wanted
    if _is_product(x, low, geometry):
        rows, grad_x = _rows(grad), None
        if wants_x:  # an operator copies the views that it returns
            grad_x = _empty_last(x, x.shape)
            torch.mm(rows, low.flatten(1), out=_rows(grad_x))
        if not wants_weight:
            return grad_x, None
        grad_weight = weight_gradient(rows, _rows(x)).to(weight.dtype)
        return grad_x, grad_weight.as_strided(weight.shape, weight.stride())
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, low, None, *_by_cudnn(geometry), (wants_x, wants_weight, False)
    )
    return grad_x, None if grad_weight is None else grad_weight.to(weight.dtype)


def _shape(x: Tensor, weight: Tensor, geometry: _Geometry) -> tuple[int, ...]:
    """Of the convolution's result."""
    of_axes = zip(
        x.shape[2:], weight.shape[2:], geometry[:2], geometry[2:4], geometry[4:6], strict=True
    )
    size = [(n + 2 * pad - gap * (taps - 1) - 1) // step + 1 for n, taps, step, pad, gap in of_axes]
    return x.shape[0], weight.shape[0], *size


class _ConvolutionNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, conv_weight, norm_weight, norm_bias, low, geometry, norm, relu, group):
        convolved = _convolve(x, low, geometry)
        own = buffers(norm)
        running = own["running_mean"], own["running_var"], own["num_batches_tracked"]
        out, statistics = normalise(
            convolved, norm_weight, norm_bias, running, norm.eps, norm.momentum, relu, group
        )
        ctx.save_for_backward(x, conv_weight, norm_weight, norm_bias, low, convolved, statistics)
        ctx.geometry, ctx.relu, ctx.group = geometry, relu, group
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad_out):
        x, conv_weight, norm_weight, norm_bias, low, convolved, statistics = ctx.saved_tensors
        grad, grad_weight, grad_bias = normalise_backward(
            grad_out, convolved, statistics, norm_weight, norm_bias, ctx.relu, ctx.group
        )
        grads = _convolve_backward(
            grad, x, conv_weight, low, ctx.geometry, ctx.needs_input_grad[:2]
        )
        of_norm = grad_weight.to(norm_weight.dtype), grad_bias.to(norm_bias.dtype)
        return *grads, *of_norm, None, None, None, None, None


def convolution_norm(
    x: Tensor, low: Tensor, conv, norm, relu: bool, group: dist.ProcessGroup | None = None
) -> Tensor:
    """``relu(norm(conv(x)))`` in training.

    Args:
        x: (B, C, H, W), in the compute dtype.
        low: the convolution's weight in that dtype.
        conv: without a bias.
        norm: ``nn.BatchNorm2d``, with weight, bias and running statistics.
        relu: clip at zero.
        group: processes that share the norm's statistics; not while a compiler looks on.
    """
    parameters = conv.weight, norm.weight, norm.bias, low
    geometry = geometry_of(conv)
    if not torch.compiler.is_compiling():
        return _ConvolutionNorm.apply(x, *parameters, geometry, norm, relu, group)
    mean, variance = norm.running_mean, norm.running_var
    out, *_, moved = _convolution_norm(
        x, *parameters, mean, variance, geometry, norm.eps, norm.momentum, relu
    )
    with torch.no_grad():
        mean.copy_(moved[0])
        variance.copy_(moved[1])
        norm.num_batches_tracked.add_(1)
    return out


def _forward(
    x: Tensor,
    conv_weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    low: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    geometry: _Geometry,
    eps: float,
    momentum: float,
    relu: bool,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: UP006
    """:func:`convolution_norm`'s result; for the backward pass the convolution's, and mean and one
    over the standard deviation (2, C); and what the running mean and variance become (2, C)."""
    moved = torch.stack([running_mean, running_var])
    batches = x.new_empty((), dtype=torch.int64)  # a kernel counts; the caller does it again
    convolved = _convolve(x, low, geometry)
    out, statistics = normalise_batch(
        convolved, norm_weight, norm_bias, (*moved.unbind(), batches), eps, momentum, relu
    )
    return out, convolved, statistics, moved


def _backward(
    grad_out: Tensor,
    x: Tensor,
    conv_weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    low: Tensor,
    convolved: Tensor,
    statistics: Tensor,
    geometry: _Geometry,
    relu: bool,
    wanted: List[bool],  # noqa: UP006
) -> List[Tensor]:  # noqa: UP006
    """Gradients for ``x``, channels-last, and for the convolution's weight, laid out as it is, both
    empty if they are not ``wanted``; in float32, for the norm's weight and bias."""
    grad, *of_norm = normalise_batch_backward(
        grad_out, convolved, statistics, norm_weight, norm_bias, relu
    )
    grad_x, grad_conv = _convolve_backward(grad, x, conv_weight, low, geometry, wanted)
    none = x.new_empty(0)
    grad_x = none if grad_x is None else grad_x.contiguous(memory_format=torch.channels_last)
    if grad_conv is None:
        grad_conv = none.clone()
    elif grad_conv.stride() != conv_weight.stride():
        grad_conv = torch.empty_like(conv_weight).copy_(grad_conv)
    return [grad_x, grad_conv, *of_norm]


_convolution_norm = register("convolution_norm", _forward)


@_convolution_norm.register_fake
def _(x, conv_weight, norm_weight, norm_bias, low, mean, variance, geometry, eps, momentum, relu):
    shape = _shape(x, low, geometry)
    wide = [x.new_empty((2, low.shape[0]), dtype=torch.float32) for _ in range(2)]
    return _empty_last(x, shape), _empty_last(x, shape), *wide


_convolution_norm_backward = register("convolution_norm_backward", _backward)


@_convolution_norm_backward.register_fake
def _(grad_out, x, conv_weight, norm_weight, norm_bias, low, convolved, statistics, *options):
    wants_x, wants_conv = options[2]
    return [
        _empty_last(x, x.shape) if wants_x else x.new_empty(0),
        torch.empty_like(conv_weight) if wants_conv else x.new_empty(0),
        *(norm_weight.new_empty(norm_weight.shape, dtype=torch.float32) for _ in range(2)),
    ]


def _save(ctx, inputs, output):
    *tensors, _, _, ctx.geometry, _, _, ctx.relu = inputs
    _, convolved, statistics, moved = output
    ctx.mark_non_differentiable(convolved, statistics, moved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, convolved, statistics)


def _differentiate(ctx, grad_out, *_):
    norm_weight, norm_bias = ctx.saved_tensors[2:4]
    wanted = list(ctx.needs_input_grad[:2])
    *grads, grad_weight, grad_bias = _convolution_norm_backward(
        grad_out, *ctx.saved_tensors, ctx.geometry, ctx.relu, wanted
    )
    grads = [grad if wants else None for grad, wants in zip(grads, wanted, strict=True)]
    return *grads, grad_weight.to(norm_weight.dtype), grad_bias.to(norm_bias.dtype), *[None] * 7


_convolution_norm.register_autograd(_differentiate, setup_context=_save)


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
    own = buffers(norm)
    run = _folded_convolution if torch.compiler.is_compiling() else _folded
    return run(
        x, conv.weight, own["running_mean"], own["running_var"], norm.weight, norm.bias,
        geometry_of(conv), norm.eps, relu,
    )  # fmt: skip


def _folded(
    x: Tensor,
    weight: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    geometry: _Geometry,
    eps: float,
    relu: bool,
) -> Tensor:
    channels = weight.shape[0]
    folded = torch.empty_like(weight, dtype=x.dtype)
    pointwise = _is_product(x, weight, geometry)
    shift = weight.new_empty(channels, dtype=x.dtype if pointwise else torch.float32)
    _fold_launch(channels, weight[0].numel(), eps)(
        weight, running_mean, running_var, norm_weight, norm_bias, folded, shift
    )
    if pointwise:
        rows, matrix = _rows(x), folded.flatten(1).t()
        if relu:
            return _map(addmm_relu(shift, rows, matrix), x)
        return _map(torch.addmm(shift, rows, matrix), x)
    out = _convolve(x, folded, geometry)
    rows = out.numel() // channels
    apply_launch(shift_channels, (rows,), channels, RELU=relu)(out, shift)
    return out


_folded_convolution = register("folded_convolution", _folded)


@_folded_convolution.register_fake
def _(x, weight, mean, variance, norm_weight, norm_bias, geometry, eps, relu):
    return _empty_last(x, _shape(x, weight, geometry))
