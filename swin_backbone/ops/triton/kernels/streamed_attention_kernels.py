"""Attention within windows of many tokens: keys and values pass by in blocks.

As in :mod:`.attention_kernels` a program owns one head and a run of windows, of which it takes one
block of queries (or, for the gradients of keys and values, of keys), and nothing is added up
atomically. Of a window's scores only a block is on chip, so that windows may be of any size. Scores
are in units of log 2.

``BLOCK`` tokens are handled at once; ``SIDE`` is a window's number of tokens in whole blocks. No
kernel is compiled for a number of heads, which is another one in each stage.
"""

import triton
import triton.language as tl

from .attention_kernels import (
    LOG2E,
    SIZES,
    _bias,
    _dropout_factor,
    _find_map,
    _gather,
    _inverse_norm,
)
from .jit import kernel


@triton.jit
def _unit_rows(rows):
    """Rows at length one, in their dtype, and 1 / their length."""
    inverse = _inverse_norm(rows)
    return (rows.to(tl.float32) * inverse[:, None]).to(rows.dtype), inverse


@triton.jit
def _before_unit(grad, unit, inverse):
    """Gradient for rows, given that for them at length one, and its part along them."""
    wide = unit.to(tl.float32)
    along = tl.sum(grad * wide, 1)
    return (grad - wide * along[:, None]) * inverse[:, None], along


@triton.jit
def _place(
    local,
    first_row,
    first_column,
    height,
    width,
    rows,
    columns,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    ROLLS_FIRST: tl.constexpr,
):
    """Where tokens of a window lie: their place on the map, row, column, whether they are on it,
    and their region: tokens of one see each other, see :func:`.attention_kernels._region`.
    ``ROLLS_FIRST`` as of :func:`.attention_kernels._locate`.

    Without a branch, so that loads of a loop over blocks are started ahead.
    """
    row = first_row + local // WINDOW_W
    column = first_column + local % WINDOW_W
    down, right = row >= rows * WINDOW_H, column >= columns * WINDOW_W
    on_map = local < WINDOW_H * WINDOW_W
    if ROLLS_FIRST:
        on_map = on_map & (row < height + first_row % WINDOW_H)
        on_map = on_map & (column < width + first_column % WINDOW_W)
        row, column = row % height, column % width
    else:
        row = tl.where(down, row - rows * WINDOW_H, row)
        column = tl.where(right, column - columns * WINDOW_W, column)
        on_map = on_map & (row < height) & (column < width)
    return row * width + column, row, column, on_map, down.to(tl.int32) * 2 + right.to(tl.int32)


@triton.jit
def _own_size(valid, image, height, width, MASKED: tl.constexpr, PACKED: tl.constexpr):
    """Rows and columns of a map whose tokens are keys; all of a packed map are."""
    if MASKED and not PACKED:
        height = tl.load(valid + image * 2)
        width = tl.load(valid + image * 2 + 1)
    return height, width


@triton.jit
def _visible(
    scores, region, other_region, seen, AXIS: tl.constexpr, SHIFTED: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Minus infinity for the scores of keys that a query does not see; keys lie on ``AXIS``."""
    if SHIFTED:
        scores = tl.where(region[:, None] == other_region[None, :], scores, float("-inf"))
    if MASKED:
        scores = tl.where(tl.expand_dims(seen, 1 - AXIS), scores, float("-inf"))
    return scores


@kernel()
def spread_bias(
    table,
    bias,
    transposed,
    HEADS: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
    BOTH: tl.constexpr,
):
    """Bias of each pair of tokens in ``bias`` (HEADS, SIDE, SIDE) float32, queries first; minus
    infinity for keys beyond the window. With ``BOTH`` the same with keys first in ``transposed``.

    The grid is (blocks of queries, blocks of keys, heads).
    """
    head = tl.program_id(2)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values = _bias(table, head, query, key, HEADS, WINDOW_H, WINDOW_W)
    tl.store(bias + (head * SIDE + query)[:, None] * SIDE + key[None, :], values)
    if BOTH:
        tl.store(
            transposed + (head * SIDE + key)[:, None] * SIDE + query[None, :], tl.trans(values)
        )


@kernel(*SIZES, "heads")
def streamed_forward(
    qkv,
    bias,
    padding,
    logit_scale,
    valid,
    packed,
    seed_pointer,
    out,
    scale,
    drop,
    windows,
    windows_per_program,
    grid_rows,
    grid_columns,
    grid_height,
    grid_width,
    heads,
    HEAD: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SHIFT_H: tl.constexpr,
    SHIFT_W: tl.constexpr,
    ROLLS_FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    COSINE: tl.constexpr,
    MASKED: tl.constexpr,
    PACKED: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """:func:`.attention_kernels.attention_forward`, but for ``bias``, see :func:`spread_bias`. The
    grid is (runs of windows, heads, blocks of queries)."""
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    stride = 3 * heads * HEAD
    SHIFTED: tl.constexpr = SHIFT_H + SHIFT_W > 0
    head = tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    block = tl.arange(0, BLOCK)
    query_local = tl.program_id(2) * BLOCK + block
    bias += (head * SIDE + query_local)[:, None] * SIDE
    if COSINE:
        scale = tl.load(logit_scale + head).to(tl.float32)
    scale *= LOG2E

    first = tl.program_id(0) * windows_per_program
    for window in range(first, tl.minimum(first + windows_per_program, windows)):
        origin, height, width, rows, columns, window_row, window_column = _find_map(
            window, packed, grid_rows, grid_columns, grid_height, grid_width, WINDOW_H, WINDOW_W,
            PACKED,
        )  # fmt: skip
        first_row = window_row * WINDOW_H + SHIFT_H
        first_column = window_column * WINDOW_W + SHIFT_W
        own_height, own_width = _own_size(
            valid, window // (rows * columns), height, width, MASKED, PACKED
        )
        query_token, row, column, query_on_map, query_region = _place(
            query_local, first_row, first_column, height, width, rows, columns,
            WINDOW_H, WINDOW_W, ROLLS_FIRST,
        )  # fmt: skip
        query_seen = query_on_map & (row < own_height) & (column < own_width)
        source = qkv + origin * stride + head * HEAD
        part = padding + head * HEAD
        query = _gather(
            source, query_token, query_seen, query_seen, part, stride, channel, HEAD, False
        )
        if COSINE:
            query, _ = _unit_rows(query)
        highest = tl.full([BLOCK], -1e30, tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        attended = tl.zeros([BLOCK, CHANNELS], tl.float32)
        for start in range(0, SIDE, BLOCK):
            key_local = start + block
            key_token, row, column, key_on_map, key_region = _place(
                key_local, first_row, first_column, height, width, rows, columns,
                WINDOW_H, WINDOW_W, ROLLS_FIRST,
            )  # fmt: skip
            key_seen = key_on_map & (row < own_height) & (column < own_width)
            fills = (key_local < TOKENS) & (key_on_map == 0)
            key = _gather(
                source + heads * HEAD, key_token, key_seen, fills, part + heads * HEAD, stride,
                channel, HEAD, HAS_PADDING,
            )  # fmt: skip
            value = _gather(
                source + 2 * heads * HEAD, key_token, key_seen, fills, part + 2 * heads * HEAD,
                stride, channel, HEAD, HAS_PADDING,
            )  # fmt: skip
            if COSINE:
                key, _ = _unit_rows(key)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
            scores = _visible(
                scores * scale + tl.load(bias + key_local[None, :]), query_region, key_region,
                key_seen, 1, SHIFTED, MASKED,
            )  # fmt: skip
            higher = tl.maximum(highest, tl.max(scores, 1))
            exponentials = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(highest - higher)
            highest = higher
            total = total * shrink + tl.sum(exponentials, 1)
            if DROPOUT:
                pair = query_local[:, None] * TOKENS + key_local[None, :]
                position = (window * heads + head) * TOKENS * TOKENS + pair
                exponentials *= _dropout_factor(tl.load(seed_pointer), position, drop)
            attended = tl.dot(
                exponentials.to(value.dtype), value, attended * shrink[:, None],
                input_precision=PRECISION,
            )  # fmt: skip
        attended = attended / tl.maximum(total, 1e-30)[:, None]
        if MASKED:
            attended = tl.where(query_seen[:, None], attended, 0.0)
        target = out + origin * (heads * HEAD) + head * HEAD
        address = target + (query_token * (heads * HEAD))[:, None] + channel[None, :]
        written = query_on_map[:, None] & (channel < HEAD)[None, :]
        tl.store(address, attended.to(out.dtype.element_ty), mask=written)


@kernel(*SIZES, "heads")
def streamed_backward_queries(
    qkv,
    bias,
    padding,
    logit_scale,
    valid,
    packed,
    seed_pointer,
    grad_out,
    grad_qkv,
    statistics,
    pairs,
    sums,
    scale,
    drop,
    windows,
    windows_per_program,
    grid_rows,
    grid_columns,
    grid_height,
    grid_width,
    heads,
    HEAD: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SHIFT_H: tl.constexpr,
    SHIFT_W: tl.constexpr,
    ROLLS_FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    COSINE: tl.constexpr,
    MASKED: tl.constexpr,
    PACKED: tl.constexpr,
    DROPOUT: tl.constexpr,
    SUM_ALL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`streamed_forward` for queries, and what those for keys need.

    ``statistics`` (windows, heads, 2, SIDE) float32: the logarithm of the softmax's divisor, and
    the mean by which weights' gradients are centred. Partial sums, see
    :func:`.attention_kernels.attention_backward`: ``pairs`` (runs, heads, SIDE, SIDE), zero at the
    start, of the bias; and in ``sums`` (runs, blocks, 3 heads HEAD + heads) of queries and of the
    logit scale. The grid is that of the forward pass.
    """
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    stride = 3 * heads * HEAD
    SHIFTED: tl.constexpr = SHIFT_H + SHIFT_W > 0
    run, head = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    inside = channel < HEAD
    block = tl.arange(0, BLOCK)
    query_local = tl.program_id(2) * BLOCK + block
    own_pairs = (head * SIDE + query_local)[:, None] * SIDE
    bias += own_pairs
    pairs += run.to(tl.int64) * (heads * SIDE * SIDE) + own_pairs
    if COSINE:
        scale = tl.load(logit_scale + head).to(tl.float32)
    query_sum = tl.zeros([BLOCK, CHANNELS], tl.float32)
    scale_sum = tl.zeros([BLOCK], tl.float32)

    first = run * windows_per_program
    for window in range(first, tl.minimum(first + windows_per_program, windows)):
        origin, height, width, rows, columns, window_row, window_column = _find_map(
            window, packed, grid_rows, grid_columns, grid_height, grid_width, WINDOW_H, WINDOW_W,
            PACKED,
        )  # fmt: skip
        first_row = window_row * WINDOW_H + SHIFT_H
        first_column = window_column * WINDOW_W + SHIFT_W
        own_height, own_width = _own_size(
            valid, window // (rows * columns), height, width, MASKED, PACKED
        )
        query_token, row, column, query_on_map, query_region = _place(
            query_local, first_row, first_column, height, width, rows, columns,
            WINDOW_H, WINDOW_W, ROLLS_FIRST,
        )  # fmt: skip
        query_seen = query_on_map & (row < own_height) & (column < own_width)
        source = qkv + origin * stride + head * HEAD
        part = padding + head * HEAD
        query = _gather(
            source, query_token, query_seen, query_seen, part, stride, channel, HEAD, False
        )
        grad_source = grad_out + origin * (heads * HEAD) + head * HEAD
        address = grad_source + (query_token * (heads * HEAD))[:, None] + channel[None, :]
        grad_attended = tl.load(address, mask=query_seen[:, None] & inside[None, :], other=0.0)
        if COSINE:
            query, query_inverse = _unit_rows(query)

        highest = tl.full([BLOCK], -1e30, tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        mean = tl.zeros([BLOCK], tl.float32)
        for start in range(0, SIDE, BLOCK):
            key_local = start + block
            key_token, row, column, key_on_map, key_region = _place(
                key_local, first_row, first_column, height, width, rows, columns,
                WINDOW_H, WINDOW_W, ROLLS_FIRST,
            )  # fmt: skip
            key_seen = key_on_map & (row < own_height) & (column < own_width)
            fills = (key_local < TOKENS) & (key_on_map == 0)
            key = _gather(
                source + heads * HEAD, key_token, key_seen, fills, part + heads * HEAD, stride,
                channel, HEAD, HAS_PADDING,
            )  # fmt: skip
            value = _gather(
                source + 2 * heads * HEAD, key_token, key_seen, fills, part + 2 * heads * HEAD,
                stride, channel, HEAD, HAS_PADDING,
            )  # fmt: skip
            if COSINE:
                key, _ = _unit_rows(key)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
            scores = _visible(
                scores * (scale * LOG2E) + tl.load(bias + key_local[None, :]), query_region,
                key_region, key_seen, 1, SHIFTED, MASKED,
            )  # fmt: skip
            grad_weights = tl.dot(grad_attended, tl.trans(value), input_precision=PRECISION)
            if DROPOUT:
                pair = query_local[:, None] * TOKENS + key_local[None, :]
                position = (window * heads + head) * TOKENS * TOKENS + pair
                grad_weights *= _dropout_factor(tl.load(seed_pointer), position, drop)
            higher = tl.maximum(highest, tl.max(scores, 1))
            exponentials = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(highest - higher)
            highest = higher
            total = total * shrink + tl.sum(exponentials, 1)
            mean = mean * shrink + tl.sum(exponentials * grad_weights, 1)
        total = tl.maximum(total, 1e-30)
        logarithm, mean = highest + tl.log2(total), mean / total
        target = statistics + (tl.cast(window, tl.int64) * heads + head) * (2 * SIDE) + query_local
        tl.store(target, logarithm)
        tl.store(target + SIDE, mean)

        grad_query = tl.zeros([BLOCK, CHANNELS], tl.float32)
        tl.debug_barrier()  # other threads may read ``pairs`` than those that wrote them
        for start in range(0, SIDE, BLOCK):
            key_local = start + block
            before = tl.load(pairs + key_local[None, :])
            key_token, row, column, key_on_map, key_region = _place(
                key_local, first_row, first_column, height, width, rows, columns,
                WINDOW_H, WINDOW_W, ROLLS_FIRST,
            )  # fmt: skip
            key_seen = key_on_map & (row < own_height) & (column < own_width)
            fills = (key_local < TOKENS) & (key_on_map == 0)
            key = _gather(
                source + heads * HEAD, key_token, key_seen, fills, part + heads * HEAD, stride,
                channel, HEAD, HAS_PADDING,
            )  # fmt: skip
            value = _gather(
                source + 2 * heads * HEAD, key_token, key_seen, fills, part + 2 * heads * HEAD,
                stride, channel, HEAD, HAS_PADDING,
            )  # fmt: skip
            if COSINE:
                key, _ = _unit_rows(key)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
            hidden = _visible(
                scores * (scale * LOG2E) + tl.load(bias + key_local[None, :]), query_region,
                key_region, key_seen, 1, SHIFTED, MASKED,
            )  # fmt: skip
            weights = tl.exp2(hidden - logarithm[:, None])
            grad_weights = tl.dot(grad_attended, tl.trans(value), input_precision=PRECISION)
            if DROPOUT:
                pair = query_local[:, None] * TOKENS + key_local[None, :]
                position = (window * heads + head) * TOKENS * TOKENS + pair
                grad_weights *= _dropout_factor(tl.load(seed_pointer), position, drop)
            grad_scores = weights * (grad_weights - mean[:, None])
            tl.store(pairs + key_local[None, :], before + grad_scores)
            grad_query = tl.dot(
                grad_scores.to(key.dtype), key, grad_query, input_precision=PRECISION
            )
        if COSINE:
            grad_query, along = _before_unit(grad_query, query, query_inverse)
            scale_sum += along
        grad_query *= scale
        address = grad_qkv + origin * stride + head * HEAD
        address += (query_token * stride)[:, None] + channel[None, :]
        written = query_on_map[:, None] & inside[None, :]
        tl.store(address, grad_query.to(grad_qkv.dtype.element_ty), mask=written)
        if SUM_ALL:
            query_sum += grad_query

    target = sums + (run * tl.num_programs(2) + tl.program_id(2)).to(tl.int64) * (stride + heads)
    tl.store(target + head * HEAD + channel, tl.sum(query_sum, 0), mask=inside)
    tl.store(target + stride + head, tl.sum(scale_sum, 0))


@kernel(*SIZES, "heads")
def streamed_backward_keys(
    qkv,
    transposed,
    padding,
    logit_scale,
    valid,
    packed,
    seed_pointer,
    grad_out,
    grad_qkv,
    statistics,
    sums,
    scale,
    drop,
    windows,
    windows_per_program,
    grid_rows,
    grid_columns,
    grid_height,
    grid_width,
    heads,
    HEAD: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SHIFT_H: tl.constexpr,
    SHIFT_W: tl.constexpr,
    ROLLS_FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    COSINE: tl.constexpr,
    MASKED: tl.constexpr,
    PACKED: tl.constexpr,
    DROPOUT: tl.constexpr,
    SUM_ALL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`streamed_forward` for keys and values, and their partial sums in the
    ``sums`` of :func:`streamed_backward_queries`, which comes first. The grid is (runs of windows,
    heads, blocks of keys)."""
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    stride = 3 * heads * HEAD
    SHIFTED: tl.constexpr = SHIFT_H + SHIFT_W > 0
    run, head = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    inside = channel < HEAD
    block = tl.arange(0, BLOCK)
    key_local = tl.program_id(2) * BLOCK + block
    transposed += (head * SIDE + key_local)[:, None] * SIDE
    if COSINE:
        scale = tl.load(logit_scale + head).to(tl.float32)
    key_sum = tl.zeros([BLOCK, CHANNELS], tl.float32)
    value_sum = tl.zeros([BLOCK, CHANNELS], tl.float32)

    first = run * windows_per_program
    for window in range(first, tl.minimum(first + windows_per_program, windows)):
        origin, height, width, rows, columns, window_row, window_column = _find_map(
            window, packed, grid_rows, grid_columns, grid_height, grid_width, WINDOW_H, WINDOW_W,
            PACKED,
        )  # fmt: skip
        first_row = window_row * WINDOW_H + SHIFT_H
        first_column = window_column * WINDOW_W + SHIFT_W
        own_height, own_width = _own_size(
            valid, window // (rows * columns), height, width, MASKED, PACKED
        )
        key_token, row, column, key_on_map, key_region = _place(
            key_local, first_row, first_column, height, width, rows, columns,
            WINDOW_H, WINDOW_W, ROLLS_FIRST,
        )  # fmt: skip
        key_seen = key_on_map & (row < own_height) & (column < own_width)
        fills = (key_local < TOKENS) & (key_on_map == 0)
        source = qkv + origin * stride + head * HEAD
        part = padding + head * HEAD
        key = _gather(
            source + heads * HEAD, key_token, key_seen, fills, part + heads * HEAD, stride, channel,
            HEAD, HAS_PADDING,
        )  # fmt: skip
        value = _gather(
            source + 2 * heads * HEAD, key_token, key_seen, fills, part + 2 * heads * HEAD, stride,
            channel, HEAD, HAS_PADDING,
        )  # fmt: skip
        if COSINE:
            key, key_inverse = _unit_rows(key)
        grad_source = grad_out + origin * (heads * HEAD) + head * HEAD
        known = statistics + (tl.cast(window, tl.int64) * heads + head) * (2 * SIDE)
        grad_key = tl.zeros([BLOCK, CHANNELS], tl.float32)
        grad_value = tl.zeros([BLOCK, CHANNELS], tl.float32)
        for start in range(0, SIDE, BLOCK):
            query_local = start + block
            query_token, row, column, query_on_map, query_region = _place(
                query_local, first_row, first_column, height, width, rows, columns,
                WINDOW_H, WINDOW_W, ROLLS_FIRST,
            )  # fmt: skip
            query_seen = query_on_map & (row < own_height) & (column < own_width)
            query = _gather(
                source, query_token, query_seen, query_seen, part, stride, channel, HEAD, False
            )
            address = grad_source + (query_token * (heads * HEAD))[:, None] + channel[None, :]
            grad_attended = tl.load(address, mask=query_seen[:, None] & inside[None, :], other=0.0)
            logarithm = tl.load(known + query_local)
            mean = tl.load(known + SIDE + query_local)
            if COSINE:
                query, _ = _unit_rows(query)
            scores = tl.dot(key, tl.trans(query), input_precision=PRECISION)
            hidden = _visible(
                scores * (scale * LOG2E) + tl.load(transposed + query_local[None, :]), key_region,
                query_region, key_seen, 0, SHIFTED, MASKED,
            )  # fmt: skip
            weights = tl.exp2(hidden - logarithm[None, :])
            grad_weights = tl.dot(value, tl.trans(grad_attended), input_precision=PRECISION)
            kept = weights
            if DROPOUT:
                pair = query_local[None, :] * TOKENS + key_local[:, None]
                position = (window * heads + head) * TOKENS * TOKENS + pair
                factor = _dropout_factor(tl.load(seed_pointer), position, drop)
                kept = weights * factor
                grad_weights *= factor
            grad_value = tl.dot(
                kept.to(value.dtype), grad_attended, grad_value, input_precision=PRECISION
            )
            grad_scores = weights * (grad_weights - mean[None, :])
            grad_key = tl.dot(grad_scores.to(key.dtype), query, grad_key, input_precision=PRECISION)
        if COSINE:
            grad_key, _ = _before_unit(grad_key, key, key_inverse)
        grad_key *= scale
        address = grad_qkv + origin * stride + head * HEAD
        address += (key_token * stride)[:, None] + channel[None, :]
        written = key_on_map[:, None] & inside[None, :]
        element = grad_qkv.dtype.element_ty
        tl.store(address + heads * HEAD, grad_key.to(element), mask=written)
        tl.store(address + 2 * heads * HEAD, grad_value.to(element), mask=written)
        if SUM_ALL:
            value_sum += grad_value
            if COSINE:  # else its sum over keys is zero, since scores matter up to a constant
                key_sum += grad_key
        elif HAS_PADDING:
            key_sum += tl.where(fills[:, None], grad_key, 0.0)
            value_sum += tl.where(fills[:, None], grad_value, 0.0)

    target = sums + (run * tl.num_programs(2) + tl.program_id(2)).to(tl.int64) * (stride + heads)
    target += head * HEAD + channel
    tl.store(target + heads * HEAD, tl.sum(key_sum, 0), mask=inside)
    tl.store(target + 2 * heads * HEAD, tl.sum(value_sum, 0), mask=inside)
