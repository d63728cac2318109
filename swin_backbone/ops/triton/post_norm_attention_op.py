"""The attention branch of a V2 block as an operator of torch.

Kept for the backward pass, in the compute dtype: the branch's input, queries, keys, values, and the
attended map. What stands before the norm is computed again.

A parameter comes twice: as it is, for its gradient, and in the compute dtype (``low``), for its
values.
"""

from typing import List, Optional  # noqa: UP035

import torch
from torch import Tensor

from .attention_op import attend, attention_partials
from .autograd_op import Differentiable, register
from .linear_op import (
    kept,
    kept_like,
    launch_cast_linear,
    like_parameters,
    weight_gradient,
)
from .partial_sums import summed
from .post_norm_op import multiply_norm_add, multiply_norm_gradients

_Sizes = List[int]  # noqa: UP006  (window rows, columns, shift rows, columns)
_Maybe = Optional[Tensor]  # noqa: UP045


def _attention_forward(
    x: Tensor,
    path_scale: _Maybe,
    qkv_weight: Tensor,
    query_bias: _Maybe,
    value_bias: _Maybe,
    table: Tensor,
    factors: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    low_qkv_weight: Tensor,
    low_qkv_bias: _Maybe,
    low_proj_weight: Tensor,
    valid_sizes: _Maybe,
    packed: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    dropout_p: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``x + path_scale * norm(proj(attention(qkv(x))))``.

    Args:
        x: (B, H, W, C), contiguous, or with ``packed`` (T, C), as is then the result.
        path_scale: (B,) factor of each image's branch, or (T,) of each token's; ``None`` for 1.
        table, factors, low_qkv_bias: what
            :func:`swin_backbone.ops.triton.attention_terms_op.attention_terms` gives.
        valid_sizes, packed, seed, sizes, dropout_p: see
            :func:`swin_backbone.ops.triton.attention_op.attend`.
        keep: whether there will be a backward pass.

    Returns:
        A tensor like ``x``; then, for the backward pass and in the dtype of the low weights, ``x``
        (rows, C), or (0, C) if it has that dtype or nothing is kept; queries, keys and values (B,
        H, W, 3 C); and the attended map (B, H, W, C).
    """
    qkv, low = launch_cast_linear(x, low_qkv_weight, low_qkv_bias, keep)
    padding = low_qkv_bias if valid_sizes is None else None
    attended = attend(
        qkv, table, padding, factors, valid_sizes, packed, seed, sizes, 1.0, dropout_p
    )
    out = multiply_norm_add(
        attended, low_proj_weight, proj_bias, norm_weight, norm_bias, x, path_scale, eps
    )
    return out, low, qkv, attended


def _attention_backward(
    grad_out: Tensor,
    low: Tensor,
    qkv: Tensor,
    attended: Tensor,
    path_scale: _Maybe,
    table: Tensor,
    factors: Tensor,
    proj_bias: Tensor,
    norm_weight: Tensor,
    low_qkv_weight: Tensor,
    low_qkv_bias: _Maybe,
    low_proj_weight: Tensor,
    valid_sizes: _Maybe,
    packed: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    dropout_p: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`_attention_forward` for ``x`` and, in this order and in float32, qkv
    weight, query bias, value bias, table, factors, projection weight and bias, norm weight and
    bias."""
    channels, heads = low.shape[1], factors.shape[0]
    padding = low_qkv_bias if valid_sizes is None else None
    grad_z, grad_attended, partials = multiply_norm_gradients(
        attended, low_proj_weight, proj_bias, norm_weight, grad_out, path_scale, eps
    )
    # Maps are given back once they have been read: the next kernel needs memory for three of them.
    grad_proj_weight = weight_gradient(grad_z, attended.view(-1, channels))
    del grad_z
    grad_qkv, qkv_partials, pairs = attention_partials(
        grad_attended, qkv, table, padding, factors, valid_sizes, packed, seed, sizes, 1.0,
        dropout_p, sum_all=low_qkv_bias is not None,
    )  # fmt: skip
    del grad_attended
    grad_qkv = grad_qkv.view(-1, 3 * channels)
    grad_x = torch.add(grad_out, torch.mm(grad_qkv, low_qkv_weight).view_as(grad_out))
    pieces = [channels, channels, channels, heads, channels, channels, channels, table.numel()]
    grad_query, _, grad_value, grad_factors, grad_gamma, grad_beta, grad_bias, grad_table = summed(
        [qkv_partials, partials], pieces, *pairs
    )
    return [
        grad_x, weight_gradient(grad_qkv, low), grad_query, grad_value,
        grad_table.view(table.shape), grad_factors,
        grad_proj_weight, grad_bias, grad_gamma, grad_beta,
    ]  # fmt: skip


_post_norm_attention = register("post_norm_attention", _attention_forward)


@_post_norm_attention.register_fake
def _(x, *arguments):
    dtype, channels, keep = arguments[10].dtype, x.shape[-1], arguments[-1]
    low = kept_like(x, dtype, keep)
    qkv = x.new_empty(*x.shape[:-1], 3 * channels, dtype=dtype)
    return torch.empty_like(x), low, qkv, torch.empty_like(x, dtype=dtype)


_post_norm_attention_backward = register("post_norm_attention_backward", _attention_backward)


@_post_norm_attention_backward.register_fake
def _(grad_out, low, qkv, attended, path_scale, table, factors, *others):
    def wide(*shape):
        return low.new_empty(shape, dtype=torch.float32)

    channels = low.shape[1]
    return [
        torch.empty_like(grad_out), wide(3 * channels, channels), wide(channels), wide(channels),
        wide(*table.shape), wide(*factors.shape), wide(channels, channels), wide(channels),
        wide(channels), wide(channels),
    ]  # fmt: skip


def _save(ctx, inputs, output):
    (*tensors, ctx.eps, ctx.sizes, ctx.dropout_p, _) = inputs
    _, low, qkv, attended = output
    ctx.mark_non_differentiable(low, qkv, attended)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(kept(low, tensors[0]), qkv, attended, *tensors[1:])


def _differentiate_by(gradients):
    def differentiate(ctx, grad_out, *_):
        low, qkv, attended, path_scale, *rest = ctx.saved_tensors
        parameters, weights, masks = rest[:9], rest[9:12], rest[12:]
        _, _, _, table, factors, _, proj_bias, norm_weight, _ = parameters
        grad_x, *grads = gradients(
            grad_out.contiguous(), low, qkv, attended, path_scale, table, factors, proj_bias,
            norm_weight, *weights, *masks, ctx.eps, ctx.sizes, ctx.dropout_p,
        )  # fmt: skip
        return grad_x, None, *like_parameters(grads, parameters), *[None] * 10

    return differentiate


#: Attention branch; arguments and results as of :func:`_attention_forward`.
post_norm_attention = Differentiable(
    _post_norm_attention,
    _attention_forward,
    _save,
    _differentiate_by(_post_norm_attention_backward),
    _differentiate_by(_attention_backward),
)
