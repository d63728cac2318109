"""What a V2 block's attention reads beside its tokens, as an operator of torch: one launch."""

from typing import List, Optional  # noqa: UP035

import torch
import triton
from torch import Tensor

from .autograd_op import Differentiable, register
from .kernels.position_bias_kernels import attention_terms_backward, attention_terms_forward
from .launch import Launch, remembered
from .linear_op import like_parameters

_Maybe = Optional[Tensor]  # noqa: UP045
_Sizes = List[int]  # noqa: UP006  (window rows, columns, rows and columns that are scaled to)

#: Rows of the table and hidden channels that a program holds at once, forward and backward.
FORWARD_BLOCK, BACKWARD_BLOCK = (16, 64), (64, 32)
#: Channels whose biases are copied at once.
CHANNELS = 256


def _table_rows(sizes: _Sizes) -> int:
    return (2 * sizes[0] - 1) * (2 * sizes[1] - 1)


@remembered
def _launch(backward, channels, heads, hidden, sizes, most, has_bias) -> Launch:
    rows, units = BACKWARD_BLOCK if backward else FORWARD_BLOCK
    steps = [8.0 / max(reference - 1, 1) for reference in sizes[2:]]
    constants = {"HEADS": heads, "HIDDEN": hidden, "WINDOW_H": sizes[0], "WINDOW_W": sizes[1]}
    constants |= {"ROWS": rows, "UNITS": units, "HEADS_UP": max(16, triton.next_power_of_2(heads))}
    numbers, options = (*steps, most), {"num_warps": 4}
    if backward:
        return Launch(attention_terms_backward, (hidden // units,), numbers, constants, options)
    constants |= {"C": channels, "CHANNELS": CHANNELS, "HAS_BIAS": has_bias}
    grid = (triton.cdiv(_table_rows(sizes), rows),)
    return Launch(attention_terms_forward, grid, numbers, constants, options)


def _terms_forward(
    up: Tensor,
    up_bias: Tensor,
    down: Tensor,
    logit_scale: Tensor,
    query_bias: _Maybe,
    value_bias: _Maybe,
    sizes: _Sizes,
    most: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Bias table, factors of cosines, bias of queries, keys and values.

    Args:
        up: (hidden, 2), with a multiple of 64 hidden channels; ``up_bias`` is (hidden,).
        down: (heads, hidden).
        logit_scale: (heads, 1, 1), logarithms of the factors.
        query_bias: (C,), as ``value_bias``; ``None`` for no bias.
        sizes: rows and columns of the window, and of the one to which offsets are scaled.
        most: what ``logit_scale`` counts at most.
        dtype: of the bias.

    Returns:
        ((2 M_h - 1) (2 M_w - 1), heads) and (heads,) in the dtype of ``up``; (3 C,) in ``dtype``,
        zero for keys, without a gradient, or (0,) if there is none.
    """
    (heads, hidden), has_bias = down.shape, query_bias is not None
    channels = query_bias.shape[0] if has_bias else 0
    table = up.new_empty((_table_rows(sizes), heads))
    factors, qkv_bias = up.new_empty(heads), up.new_empty(3 * channels, dtype=dtype)
    query, value = (query_bias, value_bias) if has_bias else (up, up)
    launch = _launch(False, channels, heads, hidden, tuple(sizes), most, has_bias)
    launch(
        up, up_bias, down, logit_scale, query, value, table, factors,
        qkv_bias if has_bias else table,
    )  # fmt: skip
    return table, factors, qkv_bias


def _terms_backward(
    grad_table: Tensor,
    grad_factors: Tensor,
    table: Tensor,
    factors: Tensor,
    up: Tensor,
    up_bias: Tensor,
    down: Tensor,
    logit_scale: Tensor,
    sizes: _Sizes,
    most: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of ``up``, ``up_bias``, ``down`` and ``logit_scale``, float32."""
    heads, hidden = down.shape
    pieces = [2 * hidden, hidden, heads * hidden, heads]
    grads = up.new_empty(sum(pieces), dtype=torch.float32)
    launch = _launch(True, 0, heads, hidden, tuple(sizes), most, False)
    launch(up, up_bias, down, logit_scale, table, factors, grad_table, grad_factors, grads)
    grads = grads.split_with_sizes(pieces)
    return [grad.view(t.shape) for grad, t in zip(grads, (up, up_bias, down, logit_scale))]  # noqa: B905


_attention_terms = register("attention_terms", _terms_forward)


@_attention_terms.register_fake
def _(up, up_bias, down, logit_scale, query_bias, value_bias, sizes, most, dtype):
    channels = 0 if query_bias is None else query_bias.shape[0]
    table = up.new_empty((_table_rows(sizes), down.shape[0]))
    return table, up.new_empty(down.shape[0]), up.new_empty(3 * channels, dtype=dtype)


_attention_terms_backward = register("attention_terms_backward", _terms_backward)


@_attention_terms_backward.register_fake
def _(grad_table, grad_factors, table, factors, up, up_bias, down, logit_scale, sizes, most):
    wide = {"dtype": torch.float32}
    return [t.new_empty(t.shape, **wide) for t in (up, up_bias, down, logit_scale)]


def _save(ctx, inputs, output):
    up, up_bias, down, logit_scale, _, _, ctx.sizes, ctx.most, _ = inputs
    table, factors, qkv_bias = output
    ctx.mark_non_differentiable(qkv_bias)
    ctx.save_for_backward(table, factors, up, up_bias, down, logit_scale)


def _differentiate_by(gradients):
    def differentiate(ctx, grad_table, grad_factors, _):
        table, factors, *parameters = ctx.saved_tensors
        grads = gradients(
            grad_table.contiguous(), grad_factors.contiguous(), table, factors, *parameters,
            ctx.sizes, ctx.most,
        )  # fmt: skip
        return *like_parameters(grads, parameters), *[None] * 5

    return differentiate


#: Terms of cosine attention; arguments and results as of :func:`_terms_forward`.
attention_terms = Differentiable(
    _attention_terms,
    _terms_forward,
    _save,
    _differentiate_by(_attention_terms_backward),
    _differentiate_by(_terms_backward),
)
