"""The attention branch of a block as an operator of torch.

Few tensors are kept for the backward pass: the branch's input, queries, keys, values, and the
attended map. The norm's output is recomputed.

A parameter comes twice: as it is, for its gradient, and in the compute dtype (``low``), for its
values.
"""

from typing import List, Optional  # noqa: UP035

import torch
from torch import Tensor

from .attention_op import attend, attention_partials
from .autograd_op import Differentiable, register
from .linear_op import launch_norm_linear, like_parameters, multiply, weight_gradient
from .norm_op import norm_partials, scale_and_sum
from .partial_sums import summed

_Sizes = List[int]  # noqa: UP006  (window rows, columns, shift rows, columns)
_Maybe = Optional[Tensor]  # noqa: UP045


def attention_branch(
    x: Tensor,
    path_scale: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: _Maybe,
    table: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    low_qkv_weight: Tensor,
    low_qkv_bias: _Maybe,
    low_proj_weight: Tensor,
    valid_sizes: _Maybe,
    packed: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``x + path_scale * proj(attention(qkv(norm(x))))``.

    Args:
        x: (B, H, W, C), contiguous, or with ``packed`` (T, C), as are then the results.
        path_scale: (B,) factor of each image's branch, or (T,) of each token's; ``None`` for 1.
        valid_sizes, packed, seed, sizes, scale, dropout_p: see
            :func:`swin_backbone.ops.triton.attention_op.attend`.

    Returns:
        (B, H, W, C) in the dtype of ``x``; then, in that of the low weights and for the backward
        pass, queries, keys and values (B, H, W, 3 C) and the attended map (B, H, W, C).
    """
    qkv = launch_norm_linear(x, norm_weight, norm_bias, eps, low_qkv_weight, low_qkv_bias)
    padding = low_qkv_bias if valid_sizes is None else None
    attended = attend(qkv, table, padding, None, valid_sizes, packed, seed, sizes, scale, dropout_p)
    return multiply(attended, low_proj_weight, proj_bias, x, path_scale), qkv, attended


def attention_branch_gradients(
    grad_out: Tensor,
    qkv: Tensor,
    attended: Tensor,
    x: Tensor,
    path_scale: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    table: Tensor,
    low_qkv_weight: Tensor,
    low_qkv_bias: _Maybe,
    low_proj_weight: Tensor,
    valid_sizes: _Maybe,
    packed: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`attention_branch` for ``x`` and, in this order and in float32, norm
    weight and bias, qkv weight and bias, table, projection weight and bias."""
    channels, dtype = x.shape[-1], qkv.dtype
    padding = low_qkv_bias if valid_sizes is None else None
    scaled, proj_partials = scale_and_sum(grad_out, path_scale, dtype)
    grad_attended = torch.mm(scaled, low_proj_weight)
    grad_proj_weight = weight_gradient(scaled, attended.view(-1, channels))
    del scaled  # maps are given back once they have been read: the next kernel needs three
    grad_qkv, qkv_partials, pairs = attention_partials(
        grad_attended, qkv, table, padding, None, valid_sizes, packed, seed, sizes, scale,
        dropout_p, sum_all=low_qkv_bias is not None,
    )  # fmt: skip
    del grad_attended
    grad_qkv = grad_qkv.view(-1, 3 * channels)
    grad_x, partials, normed = norm_partials(
        torch.mm(grad_qkv, low_qkv_weight), x, norm_weight, norm_bias, eps, grad_residual=grad_out,
        normed_dtype=dtype,
    )  # fmt: skip
    pieces = [3 * channels, channels, channels, channels, table.numel()]
    grad_qkv_bias, grad_norm_weight, grad_norm_bias, grad_proj_bias, grad_table = summed(
        [qkv_partials, partials, proj_partials], pieces, *pairs
    )
    return [
        grad_x, grad_norm_weight, grad_norm_bias, weight_gradient(grad_qkv, normed),
        grad_qkv_bias, grad_table.view(table.shape), grad_proj_weight, grad_proj_bias,
    ]  # fmt: skip


_residual_attention = register("residual_attention", attention_branch)


@_residual_attention.register_fake
def _(x, *arguments):
    dtype = arguments[8].dtype
    qkv = x.new_empty(*x.shape[:-1], 3 * x.shape[-1], dtype=dtype)
    return torch.empty_like(x), qkv, torch.empty_like(x, dtype=dtype)


_residual_attention_backward = register("residual_attention_backward", attention_branch_gradients)


@_residual_attention_backward.register_fake
def _(
    grad_out,
    qkv,
    attended,
    x,
    path_scale,
    norm_weight,
    norm_bias,
    table,
    low_qkv_weight,
    *arguments,
):
    def wide(*shape):
        return x.new_empty(shape, dtype=torch.float32)

    channels = x.shape[-1]
    return [
        torch.empty_like(x), wide(channels), wide(channels), wide(3 * channels, channels),
        wide(3 * channels), wide(*table.shape), wide(channels, channels), wide(channels),
    ]  # fmt: skip


def _save_attention(ctx, inputs, output):
    (*tensors, ctx.eps, ctx.sizes, ctx.scale, ctx.dropout_p) = inputs
    _, qkv, attended = output
    ctx.mark_non_differentiable(qkv, attended)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv, attended, *tensors)


def _differentiate_attention_by(gradients):
    def differentiate(ctx, grad_out, *_):
        qkv, attended, x, path_scale, *rest = ctx.saved_tensors
        parameters, low, masks = rest[:7], rest[7:10], rest[10:]
        norm_weight, norm_bias, _, _, table, _, _ = parameters
        grad_x, *grads = gradients(
            grad_out.contiguous(), qkv, attended, x, path_scale, norm_weight, norm_bias, table,
            *low, *masks, ctx.eps, ctx.sizes, ctx.scale, ctx.dropout_p,
        )  # fmt: skip
        return grad_x, None, *like_parameters(grads, parameters), *[None] * 10

    return differentiate


#: Attention branch; arguments and results as of :func:`attention_branch`.
residual_attention = Differentiable(
    _residual_attention,
    attention_branch,
    _save_attention,
    _differentiate_attention_by(_residual_attention_backward),
    _differentiate_attention_by(attention_branch_gradients),
)
