"""Layer norm as an operator of torch, of a map or of its merged 2 x 2 neighbourhoods."""

from functools import partial
from typing import List, Optional  # noqa: UP035

import torch
import torch.nn.functional as F
from torch import Tensor

from ..double_backward import plain_gradients
from ..geometry.corner_pad import corner_pad
from ..geometry.windows import clear_padding
from .autograd_op import Differentiable, register
from .kernels.norm_kernels import norm_backward, norm_forward, scale_rows
from .launch import Launch, looped, remembered, rows_of_programs, rows_of_warps
from .partial_sums import summed

_Maybe = Optional[Tensor]  # noqa: UP045

#: Elements that a warp holds of each tensor. The backward pass holds more of them, and sums.
FORWARD_ELEMENTS = 1024
BACKWARD_ELEMENTS = 512


def normed_shape(x: Tensor, merge: bool) -> tuple[int, ...]:
    """Shape of the norm's output for a map (B, H, W, C)."""
    if not merge:
        return tuple(x.shape)
    batch, height, width, channels = x.shape
    return batch, (height + 1) // 2, (width + 1) // 2, 4 * channels


@remembered
def _forward_launch(rows, channels, height, width, eps, merge, by_column, masked) -> Launch:
    block, columns, warps = rows_of_warps(channels, FORWARD_ELEMENTS)
    return Launch(
        norm_forward, (-(-rows // block),), (rows, eps, height, width),
        {"C": channels, "COLUMNS": columns, "ROWS": block, "MERGE": merge, "BY_COLUMN": by_column,
         "MASKED": masked},
        {"num_warps": warps},
    )  # fmt: skip


@remembered
def _backward_launch(
    rows, channels, height, width, eps, merge, by_column, masked, residual, write, first
) -> Launch:
    if first:  # rows are neighbours in memory
        (block, columns, warps), factor = rows_of_programs(channels), 1.0
    else:
        block, columns, warps = rows_of_warps(channels, BACKWARD_ELEMENTS)
        factor = 2 * min(1, BACKWARD_ELEMENTS / columns)
    programs, rows_per_program = looped(rows, block, factor)
    constants = {"C": channels, "COLUMNS": columns, "ROWS": block, "MERGE": merge}
    constants |= {
        "BY_COLUMN": by_column,
        "MASKED": masked,
        "RESIDUAL": residual,
        "WRITE_NORMED": write,
    }
    constants |= {"CHANNELS_FIRST": first}
    pixels = height * width if first else 0  # whether rows of 16 are aligned is worth a variant
    numbers = (rows, eps, height, width, pixels, rows_per_program // block)
    return Launch(norm_backward, (programs,), numbers, constants, {"num_warps": warps})


@remembered
def _scale_launch(rows, channels, rows_per_image, has_path_scale) -> Launch:
    block, columns, warps = rows_of_programs(channels)
    programs, rows_per_program = looped(rows, block)
    constants = {"C": channels, "COLUMNS": columns, "ROWS": block, "HAS_PATH_SCALE": has_path_scale}
    numbers = (rows, rows_per_image, rows_per_program)
    return Launch(scale_rows, (programs,), numbers, constants, {"num_warps": warps})


def normalise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    merge: bool,
    dtype: torch.dtype,
    valid_sizes: _Maybe = None,
) -> Tensor:
    """Launch the forward kernel; arguments as of :func:`layer_norm`."""
    return launch_norm(x, weight, bias, eps, merge, False, dtype, valid_sizes)


def launch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    merge: bool,
    by_column: bool,
    dtype: torch.dtype,
    valid_sizes: _Maybe,
) -> Tensor:
    """:func:`normalise`; with ``by_column`` merged channels and their parameters are neighbour by
    neighbour: upper left, lower left, upper right, lower right."""
    out = x.new_empty(normed_shape(x, merge), dtype=dtype)
    channels = out.shape[-1]
    masked = valid_sizes is not None
    height, width = (x.shape[1], x.shape[2]) if merge or masked else (0, 0)
    launch = _forward_launch(
        out.numel() // channels, channels, height, width, eps, merge, by_column, masked
    )
    launch(x, weight, bias, valid_sizes if masked else x, out)
    return out


def norm_partials(
    grad_normed: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    merge: bool = False,
    grad_residual: _Maybe = None,
    normed_dtype: Optional[torch.dtype] = None,  # noqa: UP045
    valid_sizes: _Maybe = None,
    by_column: bool = False,
) -> tuple[Tensor, Tensor, _Maybe]:
    """Launch the backward kernel.

    Args:
        grad_normed: gradient for the norm's output, contiguous, (..., C); or, without ``merge``, a
            view of a contiguous (B, C, H, W), as the gradient of a map often is.
        grad_residual: gradient that reaches ``x`` on another path, to be added.
        normed_dtype: dtype in which the norm's output is written again; ``None`` for not at all.
        valid_sizes: as of :func:`layer_norm`.
        by_column: as of :func:`launch_norm`.

    Returns:
        The gradient for ``x``; each program's partial sums of those for ``weight`` and, beside it,
        ``bias``, (programs, 2 C), see :func:`swin_backbone.ops.triton.partial_sums.summed`; the
        norm's output, shaped like its gradient.
    """
    channels = grad_normed.shape[-1]
    first, masked = not grad_normed.is_contiguous(), valid_sizes is not None
    height, width = (x.shape[1], x.shape[2]) if merge or masked or first else (0, 0)
    launch = _backward_launch(
        grad_normed.numel() // channels, channels, height, width, eps, merge, by_column, masked,
        grad_residual is not None, normed_dtype is not None, first,
    )  # fmt: skip
    grad_x = torch.empty_like(x)
    normed = None
    if normed_dtype is not None:
        normed = torch.empty_like(grad_normed, dtype=normed_dtype)
    partials = x.new_empty((launch.grid[0], 2 * channels), dtype=torch.float32)
    launch(
        x, weight, bias, valid_sizes if masked else x, grad_normed,
        x if grad_residual is None else grad_residual, grad_x,
        x if normed is None else normed, partials,
    )  # fmt: skip
    return grad_x, partials, normed


def norm_gradients(grad_normed: Tensor, x: Tensor, *arguments, **options) -> list[Tensor]:
    """Gradients for ``x``, ``weight`` and ``bias``; arguments as of :func:`norm_partials`."""
    grad_x, partials, _ = norm_partials(grad_normed, x, *arguments, **options)
    channels = grad_normed.shape[-1]
    return [grad_x, *summed([partials], [channels, channels])]


def scale_and_sum(x: Tensor, path_scale: _Maybe, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``path_scale[image] * x`` as (rows, C) in ``dtype``, and each program's partial column sums,
    (programs, C), see :func:`swin_backbone.ops.triton.partial_sums.summed`.

    Args:
        x: (B, ..., C), contiguous.
        path_scale: (B,) or ``None``.
    """
    channels = x.shape[-1]
    rows = x.numel() // channels
    launch = _scale_launch(rows, channels, rows // x.shape[0], path_scale is not None)
    out = x.new_empty((rows, channels), dtype=dtype)
    partials = x.new_empty((launch.grid[0], channels), dtype=torch.float32)
    launch(x, x if path_scale is None else path_scale, out, partials)
    return out, partials


_layer_norm = register("layer_norm", normalise)


@_layer_norm.register_fake
def _(x, weight, bias, eps, merge, dtype, valid_sizes=None):
    return x.new_empty(normed_shape(x, merge), dtype=dtype)


def _gradients(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    merge: bool,
    valid_sizes: _Maybe,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`normalise` for ``x``, ``weight`` and ``bias``."""
    grad_out = grad_out.contiguous() if merge else _readable(grad_out)
    return norm_gradients(grad_out, x, weight, bias, eps, merge, valid_sizes=valid_sizes)


def _readable(grad: Tensor) -> Tensor:
    """``grad``, copied only if the backward kernel could not read it as it lies."""
    as_image = grad.dim() == 4 and grad.permute(0, 3, 1, 2).is_contiguous()
    return grad if as_image else grad.contiguous()


def _like(grads, tensors) -> list[Tensor]:
    return [grad.to(tensor.dtype) for grad, tensor in zip(grads, tensors, strict=True)]


_layer_norm_backward = register("layer_norm_backward", _gradients)


@_layer_norm_backward.register_fake
def _(grad_out, x, weight, bias, eps, merge, valid_sizes):
    wide = {"dtype": torch.float32}
    grads = (weight.new_empty(weight.shape, **wide), bias.new_empty(bias.shape, **wide))
    return [torch.empty_like(x), *grads]


def _save(ctx, inputs, output):
    *tensors, ctx.eps, ctx.merge, ctx.dtype, valid_sizes = inputs
    ctx.save_for_backward(*tensors, valid_sizes)


def _differentiate_by(gradients):
    def differentiate(ctx, grad_out):
        *tensors, valid_sizes = ctx.saved_tensors
        grads = gradients(grad_out, *tensors, ctx.eps, ctx.merge, valid_sizes)
        return *_like(grads, tensors), None, None, None, None

    return differentiate


def plain_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    merge: bool,
    dtype: torch.dtype,
    valid_sizes: _Maybe,
) -> Tensor:
    """:func:`normalise` by plain operators, which have derivatives of every order."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x = x.to(wide)
    if merge:
        x = clear_padding(x, valid_sizes)
        x = corner_pad(x, (2, 2), (2, 2), dims=(1, 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(3)
        weight, bias = (part.view(-1, 4).t().flatten() for part in (weight, bias))
    x = F.layer_norm(x, weight.shape, weight.to(wide), bias.to(wide), eps)
    return (x if merge else clear_padding(x, valid_sizes)).to(dtype)


def _differentiate_again(ctx, grad_out):
    *tensors, valid_sizes = ctx.saved_tensors
    plain = partial(
        plain_norm, eps=ctx.eps, merge=ctx.merge, dtype=ctx.dtype, valid_sizes=valid_sizes
    )
    return *plain_gradients(plain, tensors, grad_out), None, None, None, None


#: Layer norm over channels, of tokens or of merged neighbourhoods.
#:
#: Args, by position:
#:     x: (B, H, W, C), contiguous.
#:     weight: (C,), or (4 C,) in the order of ``nn.Unfold`` with ``merge``.
#:     bias: likewise.
#:     eps: added to the variance.
#:     merge: normalise 2 x 2 neighbourhoods, zeros beyond the map's border.
#:     dtype: of the output.
#:     valid_sizes: (B, 2) int32; tokens outside are zero, of the output, or with ``merge`` of the
#:         map whose neighbourhoods are merged. ``None`` for no such tokens.
#:
#: Returns:
#:     (B, H, W, C); with ``merge`` (B, ceil(H / 2), ceil(W / 2), 4 C), neighbour by neighbour:
#:     upper left, upper right, lower left, lower right.
layer_norm = Differentiable(
    _layer_norm,
    normalise,
    _save,
    _differentiate_by(_layer_norm_backward),
    _differentiate_by(_gradients),
    _differentiate_again,
)


class _NormBeside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, dtype, valid_sizes):
        ctx.save_for_backward(x, weight, bias, valid_sizes)
        ctx.eps, ctx.dtype = eps, dtype
        ctx.set_materialize_grads(False)
        return normalise(x, weight, bias, eps, False, dtype, valid_sizes), x

    @staticmethod
    def backward(ctx, grad_normed, grad_beside):
        if grad_normed is None:
            return grad_beside, *[None] * 5
        if torch.is_grad_enabled():
            ctx.merge = False
            grad_x, *grads = _differentiate_again(ctx, grad_normed)[:3]
            if grad_beside is not None:
                grad_x = grad_beside if grad_x is None else grad_x + grad_beside
            return grad_x, *grads, None, None, None
        if grad_beside is not None:
            grad_beside = grad_beside.contiguous()
        *tensors, valid_sizes = ctx.saved_tensors
        grads = norm_gradients(
            _readable(grad_normed), *tensors, ctx.eps, grad_residual=grad_beside,
            valid_sizes=valid_sizes,
        )  # fmt: skip
        return *_like(grads, tensors), None, None, None


def norm_beside(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    valid_sizes: _Maybe = None,
) -> tuple[Tensor, Tensor]:
    """The norm of ``x`` in ``dtype``, and ``x``, whose gradients its backward kernel adds up.

    The norm, not the map, is zero outside ``valid_sizes``, see :func:`layer_norm`.
    An operator must not return what it was given, so compilers look into a function of operators.
    """
    function = _NormBesideInAGraph if torch.compiler.is_compiling() else _NormBeside
    return function.apply(x, weight, bias, eps, dtype, valid_sizes)


def _gradients_beside(
    grad_normed: Tensor,
    grad_beside: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    valid_sizes: _Maybe,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`norm_beside` for ``x``, ``weight`` and ``bias``."""
    return norm_gradients(
        _readable(grad_normed), x, weight, bias, eps, grad_residual=grad_beside.contiguous(),
        valid_sizes=valid_sizes,
    )  # fmt: skip


_norm_beside_backward = register("norm_beside_backward", _gradients_beside)


@_norm_beside_backward.register_fake
def _(grad_normed, grad_beside, x, weight, bias, eps, valid_sizes):
    wide = [torch.empty_like(p, dtype=torch.float32) for p in (weight, bias)]
    return [torch.empty_like(x), *wide]


class _NormBesideInAGraph(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, dtype, valid_sizes):
        ctx.save_for_backward(x, weight, bias, valid_sizes)
        ctx.eps = eps
        return _layer_norm(x, weight, bias, eps, False, dtype, valid_sizes), x.view_as(x)

    @staticmethod
    def backward(ctx, grad_normed, grad_beside):
        *tensors, valid_sizes = ctx.saved_tensors
        grads = _norm_beside_backward(grad_normed, grad_beside, *tensors, ctx.eps, valid_sizes)
        return *_like(grads, tensors), None, None, None
