"""Attention within windows of 65 to 256 tokens: whole rows of scores are on chip.

A program owns one head, one block of queries (or, for the gradients of keys and values, of keys)
and a run of windows, so that what all windows share, as the bias of its pairs, stays in registers.
A window's other tokens are two tiles whose sizes are powers of two, ``LEFT`` and ``RIGHT``, which
may be none: 144 tokens are 128 and 16. Nothing is added up atomically. Scores are in units of
log 2.

Scores are scaled dot products. Those of cosine attention (V2) are left to
:mod:`.streamed_attention_kernels`: with rows brought to length one in registers, ptxas 12.8, which
Triton 3.6 comes with, derives the addresses of a product's blocks on chip from a register before
what belongs there is computed, and the queries' backward pass read beyond them on an H200; ptxas
12.9 and 13.3 do not.

The grid is (blocks of ``BLOCK`` tokens, heads, runs of windows): programs that read the same
windows run at the same time, and find them in the cache.
"""

import triton
import triton.language as tl

from .attention_kernels import LOG2E, SIZES, _bias, _dropout_factor, _find_map, _gather, _hide
from .jit import kernel
from .streamed_attention_kernels import _own_size, _place


@triton.jit
def _open(
    window, valid, packed, rows, columns, height, width, WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr, SHIFT_H: tl.constexpr, SHIFT_W: tl.constexpr, MASKED: tl.constexpr,
    PACKED: tl.constexpr,
):  # fmt: skip
    """Where a window lies: its map, as of :func:`.attention_kernels._find_map`, the part of this
    whose tokens are keys, the window's first token there, and whether it reaches beyond either."""
    origin, height, width, rows, columns, row, column = _find_map(
        window, packed, rows, columns, height, width, WINDOW_H, WINDOW_W, PACKED
    )
    own_height, own_width = _own_size(
        valid, window // (rows * columns), height, width, MASKED, PACKED
    )
    row = row * WINDOW_H + SHIFT_H
    column = column * WINDOW_W + SHIFT_W
    is_border = (row + WINDOW_H > height) | (column + WINDOW_W > width)
    is_partial = (row + WINDOW_H > own_height) | (column + WINDOW_W > own_width)
    return (
        origin, height, width, rows, columns, own_height, own_width, row, column, is_border,
        is_partial,
    )  # fmt: skip


@triton.jit
def _tokens(
    local, first_row, first_column, height, width, own_height, own_width, rows, columns,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, ROLLS_FIRST: tl.constexpr,
):  # fmt: skip
    """Where tokens of a window lie on the map, whether they are on it, are keys, only fill it."""
    token, row, column, on_map, _ = _place(
        local, first_row, first_column, height, width, rows, columns, WINDOW_H, WINDOW_W,
        ROLLS_FIRST,
    )  # fmt: skip
    seen = on_map & (row < own_height) & (column < own_width)
    return token, on_map, seen, (local < WINDOW_H * WINDOW_W) & (on_map == 0)


@triton.jit
def _keys(
    local, source, part, pitch, first_row, first_column, height, width, own_height, own_width, rows,
    columns, channel, HEAD: tl.constexpr, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr,
    ROLLS_FIRST: tl.constexpr, HAS_PADDING: tl.constexpr,
):  # fmt: skip
    """Keys and values of tokens of a window, and which are seen; ``pitch`` lies between queries,
    keys and values."""
    token, _, seen, fills = _tokens(
        local, first_row, first_column, height, width, own_height, own_width, rows, columns,
        WINDOW_H, WINDOW_W, ROLLS_FIRST,
    )  # fmt: skip
    key = _gather(
        source + pitch, token, seen, fills, part + pitch, 3 * pitch, channel, HEAD, HAS_PADDING
    )
    value = _gather(
        source + 2 * pitch, token, seen, fills, part + 2 * pitch, 3 * pitch, channel, HEAD,
        HAS_PADDING,
    )  # fmt: skip
    return key, value, seen


@triton.jit
def _queries(
    local, source, grad_source, known, pitch, first_row, first_column, height, width, own_height,
    own_width, rows, columns, channel, SIDE: tl.constexpr, HEAD: tl.constexpr,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, ROLLS_FIRST: tl.constexpr,
):  # fmt: skip
    """Queries of tokens of a window, gradients for what they attended, and their statistics."""
    token, _, seen, _ = _tokens(
        local, first_row, first_column, height, width, own_height, own_width, rows, columns,
        WINDOW_H, WINDOW_W, ROLLS_FIRST,
    )  # fmt: skip
    query = _gather(source, token, seen, seen, source, 3 * pitch, channel, HEAD, False)
    grad = _gather(grad_source, token, seen, seen, grad_source, pitch, channel, HEAD, False)
    inside = local < WINDOW_H * WINDOW_W
    logarithm = tl.load(known + local, mask=inside, other=float("inf"))
    mean = tl.load(known + SIDE + local, mask=inside, other=0.0)
    return query, grad, logarithm, mean


@triton.jit
def _scores(
    one, other, bias, scale, one_local, other_local, key_seen, first_row, first_column, is_border,
    is_partial, rows, columns, AXIS: tl.constexpr, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr,
    SHIFTED: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores of pairs, minus infinity where a query does not see a key; keys lie on ``AXIS``."""
    scores = tl.dot(one, tl.trans(other), input_precision=PRECISION) * scale + bias
    scores = _hide(
        scores, one_local, other_local, key_seen, first_row, first_column, is_border, is_partial,
        rows, columns, WINDOW_H, WINDOW_W, SHIFTED, MASKED and AXIS == 1,
    )  # fmt: skip
    if MASKED and AXIS == 0:
        scores = tl.where(key_seen[:, None], scores, float("-inf"))
    return scores


@triton.jit
def _factor(seed_pointer, window_head, query_local, key_local, drop, TOKENS: tl.constexpr):
    """Factors of dropout of pairs; locals are of shapes that broadcast."""
    position = window_head * TOKENS * TOKENS + query_local * TOKENS + key_local
    return _dropout_factor(tl.load(seed_pointer), position, drop)


@triton.jit
def _add_both(one, other, to_one, to_other):
    return one + to_one, other + to_other


@kernel(*SIZES, "heads")
def rows_forward(
    qkv,
    table,
    padding,
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
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    MASKED: tl.constexpr,
    PACKED: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """:func:`.attention_kernels.attention_forward`."""
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    SHIFTED: tl.constexpr = SHIFT_H + SHIFT_W > 0
    head, pitch = tl.program_id(1), heads * HEAD
    channel = tl.arange(0, CHANNELS)
    local = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    left_local = tl.arange(0, LEFT)
    left_bias = _bias(table, head, local, left_local, heads, WINDOW_H, WINDOW_W)
    if RIGHT:
        right_local = LEFT + tl.arange(0, RIGHT)
        right_bias = _bias(table, head, local, right_local, heads, WINDOW_H, WINDOW_W)
    scale *= LOG2E
    part = padding + head * HEAD

    first = tl.program_id(2) * windows_per_program
    for window in range(first, tl.minimum(first + windows_per_program, windows)):
        (
            origin, height, width, rows, columns, own_height, own_width, row, column, is_border,
            is_partial,
        ) = _open(
            window, valid, packed, grid_rows, grid_columns, grid_height, grid_width, WINDOW_H,
            WINDOW_W, SHIFT_H, SHIFT_W, MASKED, PACKED,
        )  # fmt: skip
        source = qkv + origin * (3 * pitch) + head * HEAD
        token, on_map, seen, _ = _tokens(
            local, row, column, height, width, own_height, own_width, rows, columns, WINDOW_H,
            WINDOW_W, ROLLS_FIRST,
        )  # fmt: skip
        query = _gather(source, token, seen, seen, part, 3 * pitch, channel, HEAD, False)
        key, left_value, key_seen = _keys(
            left_local, source, part, pitch, row, column, height, width, own_height, own_width,
            rows, columns, channel, HEAD, WINDOW_H, WINDOW_W, ROLLS_FIRST, HAS_PADDING,
        )  # fmt: skip
        left = _scores(
            query, key, left_bias, scale, local, left_local, key_seen, row, column, is_border,
            is_partial, rows, columns, 1, WINDOW_H, WINDOW_W, SHIFTED, MASKED, PRECISION,
        )  # fmt: skip
        highest = tl.maximum(tl.max(left, 1), -1e30)
        if RIGHT:
            key, right_value, key_seen = _keys(
                right_local, source, part, pitch, row, column, height, width, own_height, own_width,
                rows, columns, channel, HEAD, WINDOW_H, WINDOW_W, ROLLS_FIRST, HAS_PADDING,
            )  # fmt: skip
            right = _scores(
                query, key, right_bias, scale, local, right_local, key_seen, row, column, is_border,
                is_partial, rows, columns, 1, WINDOW_H, WINDOW_W, SHIFTED, MASKED, PRECISION,
            )  # fmt: skip
            highest = tl.maximum(highest, tl.max(right, 1))
            right = tl.exp2(right - highest[:, None])
        left = tl.exp2(left - highest[:, None])
        total = tl.sum(left, 1)
        if RIGHT:
            total += tl.sum(right, 1)
        if DROPOUT:
            window_head = window * heads + head
            left *= _factor(
                seed_pointer, window_head, local[:, None], left_local[None, :], drop, TOKENS
            )
            if RIGHT:
                right *= _factor(
                    seed_pointer, window_head, local[:, None], right_local[None, :], drop, TOKENS
                )
        attended = tl.dot(left.to(left_value.dtype), left_value, input_precision=PRECISION)
        if RIGHT:
            attended = tl.dot(
                right.to(right_value.dtype), right_value, attended, input_precision=PRECISION
            )
        attended = attended / tl.maximum(total, 1e-30)[:, None]
        if MASKED:
            attended = tl.where(seen[:, None], attended, 0.0)
        address = out + origin * pitch + head * HEAD + (token * pitch)[:, None] + channel[None, :]
        written = on_map[:, None] & (channel < HEAD)[None, :]
        tl.store(address, attended.to(out.dtype.element_ty), mask=written)


@kernel(*SIZES, "heads")
def rows_backward_queries(
    qkv,
    table,
    padding,
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
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    MASKED: tl.constexpr,
    PACKED: tl.constexpr,
    DROPOUT: tl.constexpr,
    SUM_ALL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`rows_forward` for queries, and what those for keys need.

    ``SIDE`` is a window's number of tokens in whole blocks. ``statistics`` (windows, heads, 2,
    SIDE) float32: the logarithm of the softmax's divisor, and the mean by which weights' gradients
    are centred. Partial sums, see :func:`.attention_kernels.attention_backward`: ``pairs`` (runs,
    heads, SIDE, LEFT + RIGHT) of the bias; and in ``sums`` (runs, blocks, 3 heads HEAD) of queries.
    Keys come first in pairs: there are more of them, and so they are what is shared among warps.
    """
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    KEYS: tl.constexpr = LEFT + RIGHT
    SHIFTED: tl.constexpr = SHIFT_H + SHIFT_W > 0
    head, run, pitch = tl.program_id(1), tl.program_id(2), heads * HEAD
    channel = tl.arange(0, CHANNELS)
    inside = channel < HEAD
    local = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    left_local = tl.arange(0, LEFT)
    left_bias = tl.trans(_bias(table, head, local, left_local, heads, WINDOW_H, WINDOW_W))
    left_sum = tl.zeros([LEFT, BLOCK], tl.float32)
    if RIGHT:
        right_local = LEFT + tl.arange(0, RIGHT)
        right_bias = tl.trans(_bias(table, head, local, right_local, heads, WINDOW_H, WINDOW_W))
        right_sum = tl.zeros([RIGHT, BLOCK], tl.float32)
    part = padding + head * HEAD
    query_sum = tl.zeros([BLOCK, CHANNELS], tl.float32)

    first = run * windows_per_program
    for window in range(first, tl.minimum(first + windows_per_program, windows)):
        (
            origin, height, width, rows, columns, own_height, own_width, row, column, is_border,
            is_partial,
        ) = _open(
            window, valid, packed, grid_rows, grid_columns, grid_height, grid_width, WINDOW_H,
            WINDOW_W, SHIFT_H, SHIFT_W, MASKED, PACKED,
        )  # fmt: skip
        source = qkv + origin * (3 * pitch) + head * HEAD
        grad_source = grad_out + origin * pitch + head * HEAD
        token, on_map, seen, _ = _tokens(
            local, row, column, height, width, own_height, own_width, rows, columns, WINDOW_H,
            WINDOW_W, ROLLS_FIRST,
        )  # fmt: skip
        query = _gather(source, token, seen, seen, part, 3 * pitch, channel, HEAD, False)
        grad_attended = _gather(
            grad_source, token, seen, seen, grad_source, pitch, channel, HEAD, False
        )
        left_key, value, key_seen = _keys(
            left_local, source, part, pitch, row, column, height, width, own_height, own_width,
            rows, columns, channel, HEAD, WINDOW_H, WINDOW_W, ROLLS_FIRST, HAS_PADDING,
        )  # fmt: skip
        left = _scores(
            left_key, query, left_bias, scale * LOG2E, left_local, local, key_seen, row, column,
            is_border, is_partial, rows, columns, 0, WINDOW_H, WINDOW_W, SHIFTED, MASKED,
            PRECISION,
        )  # fmt: skip
        left_grad = tl.dot(value, tl.trans(grad_attended), input_precision=PRECISION)
        highest = tl.maximum(tl.max(left, 0), -1e30)
        if RIGHT:
            right_key, value, key_seen = _keys(
                right_local, source, part, pitch, row, column, height, width, own_height, own_width,
                rows, columns, channel, HEAD, WINDOW_H, WINDOW_W, ROLLS_FIRST, HAS_PADDING,
            )  # fmt: skip
            right = _scores(
                right_key, query, right_bias, scale * LOG2E, right_local, local, key_seen, row,
                column, is_border, is_partial, rows, columns, 0, WINDOW_H, WINDOW_W, SHIFTED,
                MASKED, PRECISION,
            )  # fmt: skip
            right_grad = tl.dot(value, tl.trans(grad_attended), input_precision=PRECISION)
            highest = tl.maximum(highest, tl.max(right, 0))
        if DROPOUT:
            window_head = window * heads + head
            left_grad *= _factor(
                seed_pointer, window_head, local[None, :], left_local[:, None], drop, TOKENS
            )
            if RIGHT:
                right_grad *= _factor(
                    seed_pointer, window_head, local[None, :], right_local[:, None], drop, TOKENS
                )
        left = tl.exp2(left - highest[None, :])
        total, mean = tl.reduce((left, left * left_grad), 0, _add_both)  # across warps but once
        if RIGHT:
            right = tl.exp2(right - highest[None, :])
            right_total, right_mean = tl.reduce((right, right * right_grad), 0, _add_both)
            total += right_total
            mean += right_mean
        total = tl.maximum(total, 1e-30)
        inverse = 1.0 / total
        mean *= inverse
        target = statistics + (tl.cast(window, tl.int64) * heads + head) * (2 * SIDE) + local
        tl.store(target, highest + tl.log2(total))
        tl.store(target + SIDE, mean)

        left = left * inverse[None, :] * (left_grad - mean[None, :])
        left_sum += left
        grad_query = tl.dot(tl.trans(left_key), left.to(left_key.dtype), input_precision=PRECISION)
        if RIGHT:
            right = right * inverse[None, :] * (right_grad - mean[None, :])
            right_sum += right
            grad_query = tl.dot(
                tl.trans(right_key), right.to(right_key.dtype), grad_query,
                input_precision=PRECISION,
            )  # fmt: skip
        grad_query = tl.trans(grad_query) * scale
        address = grad_qkv + origin * (3 * pitch) + head * HEAD
        address += (token * (3 * pitch))[:, None] + channel[None, :]
        written = on_map[:, None] & inside[None, :]
        tl.store(address, grad_query.to(grad_qkv.dtype.element_ty), mask=written)
        if SUM_ALL:
            query_sum += grad_query

    own_pairs = (run.to(tl.int64) * heads + head) * (SIDE * KEYS) + local * KEYS
    tl.store(pairs + own_pairs[None, :] + left_local[:, None], left_sum)
    if RIGHT:
        tl.store(pairs + own_pairs[None, :] + right_local[:, None], right_sum)
    target = sums + (run * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * (3 * pitch)
    tl.store(target + head * HEAD + channel, tl.sum(query_sum, 0), mask=inside)


@triton.jit
def _key_gradients(
    grad_key, grad_value, query, grad_attended, logarithm, mean, key, value, bias, scale,
    query_local, local, seen, window_head, seed_pointer, drop, row, column, is_border, is_partial,
    rows, columns, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, SHIFTED: tl.constexpr,
    MASKED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients for keys and values, channels first, with what queries add to them."""
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    scores = _scores(
        query, key, bias, scale, query_local, local, seen, row, column, is_border, is_partial,
        rows, columns, 1, WINDOW_H, WINDOW_W, SHIFTED, MASKED, PRECISION,
    )  # fmt: skip
    weights = tl.exp2(scores - logarithm[:, None])
    grad_weights = tl.dot(grad_attended, tl.trans(value), input_precision=PRECISION)
    kept = weights
    if DROPOUT:
        factor = _factor(
            seed_pointer, window_head, query_local[:, None], local[None, :], drop, TOKENS
        )
        kept = weights * factor
        grad_weights *= factor
    grad_value = tl.dot(
        tl.trans(grad_attended), kept.to(value.dtype), grad_value, input_precision=PRECISION
    )
    grad_scores = (weights * (grad_weights - mean[:, None])).to(key.dtype)
    grad_key = tl.dot(tl.trans(query), grad_scores, grad_key, input_precision=PRECISION)
    return grad_key, grad_value


@kernel(*SIZES, "heads")
def rows_backward_keys(
    qkv,
    table,
    padding,
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
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    MASKED: tl.constexpr,
    PACKED: tl.constexpr,
    DROPOUT: tl.constexpr,
    SUM_ALL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`rows_forward` for keys and values, and their partial sums in the ``sums``
    of :func:`rows_backward_queries`, which comes first."""
    SHIFTED: tl.constexpr = SHIFT_H + SHIFT_W > 0
    head, run, pitch = tl.program_id(1), tl.program_id(2), heads * HEAD
    channel = tl.arange(0, CHANNELS)
    inside = channel < HEAD
    local = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    left_local = tl.arange(0, LEFT)
    left_bias = _bias(table, head, left_local, local, heads, WINDOW_H, WINDOW_W)
    if RIGHT:
        right_local = LEFT + tl.arange(0, RIGHT)
        right_bias = _bias(table, head, right_local, local, heads, WINDOW_H, WINDOW_W)
    part = padding + head * HEAD
    key_sum = tl.zeros([BLOCK, CHANNELS], tl.float32)
    value_sum = tl.zeros([BLOCK, CHANNELS], tl.float32)

    first = run * windows_per_program
    for window in range(first, tl.minimum(first + windows_per_program, windows)):
        (
            origin, height, width, rows, columns, own_height, own_width, row, column, is_border,
            is_partial,
        ) = _open(
            window, valid, packed, grid_rows, grid_columns, grid_height, grid_width, WINDOW_H,
            WINDOW_W, SHIFT_H, SHIFT_W, MASKED, PACKED,
        )  # fmt: skip
        source = qkv + origin * (3 * pitch) + head * HEAD
        grad_source = grad_out + origin * pitch + head * HEAD
        window_head = window * heads + head
        known = statistics + tl.cast(window_head, tl.int64) * (2 * SIDE)
        token, on_map, seen, fills = _tokens(
            local, row, column, height, width, own_height, own_width, rows, columns, WINDOW_H,
            WINDOW_W, ROLLS_FIRST,
        )  # fmt: skip
        key = _gather(
            source + pitch, token, seen, fills, part + pitch, 3 * pitch, channel, HEAD, HAS_PADDING
        )
        value = _gather(
            source + 2 * pitch, token, seen, fills, part + 2 * pitch, 3 * pitch, channel, HEAD,
            HAS_PADDING,
        )  # fmt: skip
        grad_key = tl.zeros([CHANNELS, BLOCK], tl.float32)
        grad_value = tl.zeros([CHANNELS, BLOCK], tl.float32)
        query, grad_attended, logarithm, mean = _queries(
            left_local, source, grad_source, known, pitch, row, column, height, width, own_height,
            own_width, rows, columns, channel, SIDE, HEAD, WINDOW_H, WINDOW_W, ROLLS_FIRST,
        )  # fmt: skip
        grad_key, grad_value = _key_gradients(
            grad_key, grad_value, query, grad_attended, logarithm, mean, key, value, left_bias,
            scale * LOG2E, left_local, local, seen, window_head, seed_pointer, drop, row, column,
            is_border, is_partial, rows, columns, WINDOW_H, WINDOW_W, SHIFTED, MASKED, DROPOUT,
            PRECISION,
        )  # fmt: skip
        if RIGHT:
            query, grad_attended, logarithm, mean = _queries(
                right_local, source, grad_source, known, pitch, row, column, height, width,
                own_height, own_width, rows, columns, channel, SIDE, HEAD, WINDOW_H, WINDOW_W,
                ROLLS_FIRST,
            )  # fmt: skip
            grad_key, grad_value = _key_gradients(
                grad_key, grad_value, query, grad_attended, logarithm, mean, key, value, right_bias,
                scale * LOG2E, right_local, local, seen, window_head, seed_pointer, drop, row,
                column, is_border, is_partial, rows, columns, WINDOW_H, WINDOW_W, SHIFTED, MASKED,
                DROPOUT, PRECISION,
            )  # fmt: skip
        grad_key, grad_value = tl.trans(grad_key) * scale, tl.trans(grad_value)
        address = grad_qkv + origin * (3 * pitch) + head * HEAD
        address += (token * (3 * pitch))[:, None] + channel[None, :]
        written = on_map[:, None] & inside[None, :]
        element = grad_qkv.dtype.element_ty
        tl.store(address + pitch, grad_key.to(element), mask=written)
        tl.store(address + 2 * pitch, grad_value.to(element), mask=written)
        if SUM_ALL:
            # That of keys is zero, since scores matter up to a constant.
            value_sum += grad_value
        elif HAS_PADDING:
            key_sum += tl.where(fills[:, None], grad_key, 0.0)
            value_sum += tl.where(fills[:, None], grad_value, 0.0)

    target = sums + (run * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * (3 * pitch)
    target += head * HEAD + channel
    tl.store(target + pitch, tl.sum(key_sum, 0), mask=inside)
    tl.store(target + 2 * pitch, tl.sum(value_sum, 0), mask=inside)
