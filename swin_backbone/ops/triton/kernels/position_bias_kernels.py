"""What the attention of a Swin V2 block reads beside its tokens, computed from its parameters.

The bias table is a small network of the offset between two tokens (section 3.3). It has a few
hundred rows: what matters is the number of launches.
"""

import triton
import triton.language as tl

from .jit import kernel

#: The factor of a bias behind its sigmoid.
HIGHEST: tl.constexpr = tl.constexpr(16.0)


@triton.jit
def _coordinate(offset, step):
    """An offset of tokens on a logarithmic scale; ``step`` has the farthest be 8 and -8."""
    wide = offset.to(tl.float32) * step
    distance = tl.log2(tl.abs(wide) + 1.0) / 3.0
    return tl.where(wide < 0, -distance, distance)


@triton.jit
def _hidden_layer(
    up, up_bias, place, unit, row_step, column_step, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr
):
    """Coordinates of rows of the table, and (rows, units) of the hidden layer."""
    y = _coordinate(place // (2 * WINDOW_W - 1) - (WINDOW_H - 1), row_step)
    x = _coordinate(place % (2 * WINDOW_W - 1) - (WINDOW_W - 1), column_step)
    along_y = tl.load(up + 2 * unit).to(tl.float32)
    along_x = tl.load(up + 2 * unit + 1).to(tl.float32)
    hidden = y[:, None] * along_y[None, :] + x[:, None] * along_x[None, :]
    return y, x, tl.maximum(hidden + tl.load(up_bias + unit).to(tl.float32)[None, :], 0.0)


@kernel()
def attention_terms_forward(
    up,
    up_bias,
    down,
    logit_scale,
    query_bias,
    value_bias,
    table,
    factors,
    qkv_bias,
    row_step,
    column_step,
    most,
    C: tl.constexpr,
    HEADS: tl.constexpr,
    HIDDEN: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    HEADS_UP: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """The bias table ((2 WINDOW_H - 1) (2 WINDOW_W - 1), HEADS); the factors of cosines (HEADS),
    ``exp(min(logit_scale, most))``; and the bias (3 C) of queries, keys (zeros) and values.

    ``up`` is (HIDDEN, 2), ``down`` (HEADS, HIDDEN).
    """
    TABLE: tl.constexpr = (2 * WINDOW_H - 1) * (2 * WINDOW_W - 1)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.arange(0, HEADS_UP)
    scores = tl.zeros([ROWS, HEADS_UP], tl.float32)
    for start in range(0, HIDDEN, UNITS):
        unit = start + tl.arange(0, UNITS)
        _, _, hidden = _hidden_layer(
            up, up_bias, place, unit, row_step, column_step, WINDOW_H, WINDOW_W
        )
        weight = tl.load(
            down + head[None, :] * HIDDEN + unit[:, None], mask=(head < HEADS)[None, :], other=0.0
        )
        scores = tl.dot(hidden, weight.to(tl.float32), scores, input_precision="ieee")
    bias = HIGHEST / (1.0 + tl.exp(-scores))
    mask = (place < TABLE)[:, None] & (head < HEADS)[None, :]
    target = table + place[:, None] * HEADS + head[None, :]
    tl.store(target, bias.to(table.dtype.element_ty), mask=mask)
    if tl.program_id(0) == 0:
        factor = tl.load(logit_scale + head, mask=head < HEADS, other=0.0).to(tl.float32)
        factor = tl.exp(tl.minimum(factor, most))
        tl.store(factors + head, factor.to(factors.dtype.element_ty), mask=head < HEADS)
        if HAS_BIAS:
            for start in range(0, C, CHANNELS):
                channel = start + tl.arange(0, CHANNELS)
                known = channel < C
                element = qkv_bias.dtype.element_ty
                query = tl.load(query_bias + channel, mask=known, other=0.0)
                value = tl.load(value_bias + channel, mask=known, other=0.0)
                tl.store(qkv_bias + channel, query.to(element), mask=known)
                tl.store(qkv_bias + C + channel, tl.zeros_like(query).to(element), mask=known)
                tl.store(qkv_bias + 2 * C + channel, value.to(element), mask=known)


@kernel()
def attention_terms_backward(
    up,
    up_bias,
    down,
    logit_scale,
    table,
    factors,
    grad_table,
    grad_factors,
    grads,
    row_step,
    column_step,
    most,
    HEADS: tl.constexpr,
    HIDDEN: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    HEADS_UP: tl.constexpr,
):
    """Gradients of ``up``, ``up_bias``, ``down`` and ``logit_scale``, one after the other in
    ``grads``, float32. A program owns ``UNITS`` hidden channels and passes over all offsets."""
    TABLE: tl.constexpr = (2 * WINDOW_H - 1) * (2 * WINDOW_W - 1)
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    head = tl.arange(0, HEADS_UP)
    known = head < HEADS
    weight = tl.load(
        down + head[:, None] * HIDDEN + unit[None, :], mask=known[:, None], other=0.0
    ).to(tl.float32)
    down_sum = tl.zeros([HEADS_UP, UNITS], tl.float32)
    y_sum = tl.zeros([UNITS], tl.float32)
    x_sum = tl.zeros([UNITS], tl.float32)
    bias_sum = tl.zeros([UNITS], tl.float32)
    for start in range(0, TABLE, ROWS):
        place = start + tl.arange(0, ROWS)
        y, x, hidden = _hidden_layer(
            up, up_bias, place, unit, row_step, column_step, WINDOW_H, WINDOW_W
        )
        mask = (place < TABLE)[:, None] & known[None, :]
        offset = place[:, None] * HEADS + head[None, :]
        bias = tl.load(table + offset, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(grad_table + offset, mask=mask, other=0.0).to(tl.float32)
        gradient *= bias * (1.0 - bias / HIGHEST)
        down_sum = tl.dot(tl.trans(gradient), hidden, down_sum, input_precision="ieee")
        grad_hidden = tl.dot(gradient, weight, input_precision="ieee")
        grad_hidden = tl.where(hidden > 0, grad_hidden, 0.0)
        y_sum += tl.sum(grad_hidden * y[:, None], 0)
        x_sum += tl.sum(grad_hidden * x[:, None], 0)
        bias_sum += tl.sum(grad_hidden, 0)
    tl.store(grads + 2 * unit, y_sum)
    tl.store(grads + 2 * unit + 1, x_sum)
    tl.store(grads + 2 * HIDDEN + unit, bias_sum)
    target = grads + 3 * HIDDEN + head[:, None] * HIDDEN + unit[None, :]
    tl.store(target, down_sum, mask=known[:, None])
    if tl.program_id(0) == 0:
        scale = tl.load(logit_scale + head, mask=known, other=0.0).to(tl.float32)
        factor = tl.load(factors + head, mask=known, other=0.0).to(tl.float32)
        gradient = tl.load(grad_factors + head, mask=known, other=0.0).to(tl.float32) * factor
        gradient = tl.where(scale <= most, gradient, 0.0)
        tl.store(grads + (3 + HEADS) * HIDDEN + head, gradient, mask=known)
