"""Patch merging as an operator of torch.

Nothing but the map is kept for the backward pass: its merged and normed neighbourhoods, which the
gradient of the weights needs, are written again by the kernel that computes the norm's gradient.

Merged channels are counted neighbour by neighbour here, which keeps the kernels' reads and writes
contiguous; parameters and their gradients are in the order of ``nn.Unfold``, or ``by_column``.
"""

from functools import partial
from typing import List, Optional  # noqa: UP035

import torch
import torch.nn.functional as F
from torch import Tensor

from ..double_backward import plain_gradients
from ..geometry.neighbours import in_unfold_order
from .autograd_op import Differentiable, register
from .linear_op import like_parameters, weight_gradient
from .norm_op import launch_norm, norm_partials, normed_shape, plain_norm
from .partial_sums import summed

_Maybe = Optional[Tensor]  # noqa: UP045


def copy_by_neighbour(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight`` (N, 4 C) in ``dtype`` with its inputs neighbour by neighbour, without history."""
    copy = _copy_in_a_graph if torch.compiler.is_compiling() else _copy
    return copy(weight.detach(), dtype)


def _copy(weight: Tensor, dtype: torch.dtype) -> Tensor:
    outputs, inputs = weight.shape
    out = weight.new_empty(outputs, inputs, dtype=dtype)
    out.view(outputs, 4, -1).copy_(weight.view(outputs, -1, 4).transpose(1, 2))
    return out


_copy_in_a_graph = register("copy_by_neighbour", _copy)


@_copy_in_a_graph.register_fake
def _(weight, dtype):
    return weight.new_empty(weight.shape, dtype=dtype)


def _merge_forward(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    low: Tensor,
    valid_sizes: _Maybe,
    eps: float,
    by_column: bool,
) -> Tensor:
    """``norm(merge(x)) @ weight^T``.

    Args:
        x: (B, H, W, C), contiguous.
        norm_weight: (4 C,), as ``norm_bias``.
        weight: (N, 4 C), for its gradient.
        low: (N, 4 C), for its values: see :func:`copy_by_neighbour`; as it is with ``by_column``.
        valid_sizes: (B, 2) int32; tokens of the map outside count as zero. ``None`` for no such.
        by_column: whether parameters are neighbour by neighbour: upper left, lower left, upper
            right, lower right; else in the order of ``nn.Unfold``.

    Returns:
        (B, ceil(H / 2), ceil(W / 2), N) in the dtype of ``low``.
    """
    normed = launch_norm(x, norm_weight, norm_bias, eps, True, by_column, low.dtype, valid_sizes)
    return F.linear(normed, low)


def _merge_backward(
    grad_out: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    low: Tensor,
    valid_sizes: _Maybe,
    eps: float,
    by_column: bool,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`_merge_forward` for ``x`` and, in this order and in float32, norm weight
    and bias, and weight."""
    outputs, inputs = low.shape
    grad_out = grad_out.view(-1, outputs)
    grad_x, partials, normed = norm_partials(
        torch.mm(grad_out, low), x, norm_weight, norm_bias, eps, merge=True,
        normed_dtype=low.dtype, valid_sizes=valid_sizes, by_column=by_column,
    )  # fmt: skip
    grad_weight = weight_gradient(grad_out, normed)
    if not by_column:
        grad_weight = grad_weight.view(outputs, 4, -1).transpose(1, 2).reshape(outputs, inputs)
    return [grad_x, *summed([partials], [inputs, inputs]), grad_weight]


_merge_reduce = register("merge_reduce", _merge_forward)


@_merge_reduce.register_fake
def _(x, norm_weight, norm_bias, weight, low, valid_sizes, eps, by_column):
    return x.new_empty(*normed_shape(x, True)[:3], low.shape[0], dtype=low.dtype)


_merge_reduce_backward = register("merge_reduce_backward", _merge_backward)


@_merge_reduce_backward.register_fake
def _(grad_out, x, norm_weight, norm_bias, low, valid_sizes, eps, by_column):
    wide = [p.new_empty(p.shape, dtype=torch.float32) for p in (norm_weight, norm_bias, low)]
    return [torch.empty_like(x), *wide]


def _save(ctx, inputs, output):
    *tensors, ctx.eps, ctx.by_column = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_by(gradients):
    def differentiate(ctx, grad_out):
        x, norm_weight, norm_bias, weight, low, valid_sizes = ctx.saved_tensors
        grad_x, *grads = gradients(
            grad_out.contiguous(), x, norm_weight, norm_bias, low, valid_sizes, ctx.eps,
            ctx.by_column,
        )  # fmt: skip
        return grad_x, *like_parameters(grads, (norm_weight, norm_bias, weight)), *[None] * 4

    return differentiate


def _plain(x, norm_weight, norm_bias, weight, low, valid_sizes, eps, by_column) -> Tensor:
    """:func:`_merge_forward` by plain operators, from ``weight`` and not from ``low``."""
    if by_column:
        norm_weight, norm_bias, weight = map(in_unfold_order, (norm_weight, norm_bias, weight))
    normed = plain_norm(x, norm_weight, norm_bias, eps, True, low.dtype, valid_sizes)
    by_neighbour = weight.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1)
    return F.linear(normed, by_neighbour.to(low.dtype))


def _differentiate_again(ctx, grad_out):
    *learned, low, valid_sizes = ctx.saved_tensors
    plain = partial(_plain, low=low, valid_sizes=valid_sizes, eps=ctx.eps, by_column=ctx.by_column)
    return *plain_gradients(plain, learned, grad_out), *[None] * 4


#: Patch merging; arguments and result as of :func:`_merge_forward`.
merge_reduce = Differentiable(
    _merge_reduce,
    _merge_forward,
    _save,
    _differentiate_by(_merge_reduce_backward),
    _differentiate_by(_merge_backward),
    _differentiate_again,
)
