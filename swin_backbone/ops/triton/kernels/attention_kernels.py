"""Shifted-window attention as Triton kernels: no roll, partition, mask or score tensor.

A program owns one head and a run of windows. For each window it gathers queries, keys and values
from the unpadded map by index arithmetic, keeps scores and weights on chip, and writes each token's
result where the token came from. A token lies in one window, so no two programs write the same
element, and nothing is added up atomically: results are the same bits from run to run.

Sizes are in tokens. ``KEYS`` and ``CHANNELS`` are the powers of two that hold a window's tokens and
a head's channels; ``QUERIES`` of a window's tokens are handled at once. Scores are kept in units of
log 2, since the hardware has 2^x.
"""

import triton
import triton.language as tl

from .jit import kernel

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
#: Sizes of maps, which change from image to image: no kernel is compiled for one of them.
SIZES = (
    "windows", "windows_per_program", "grid_rows", "grid_columns", "grid_height", "grid_width"
)  # fmt: skip


@triton.jit
def _find_map(
    window,
    packed,
    rows,
    columns,
    height,
    width,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    PACKED: tl.constexpr,
):
    """On which map a window lies, and where.

    Returns the map's first token (int64), its rows and columns of tokens, its rows and columns of
    windows, and the window's row and column among these. Maps of one size follow from the window's
    number, packed ones from a table (windows, 4): first token, rows and columns of the map, and the
    window's number on it.
    """
    if PACKED:
        entry = packed + 4 * window
        first = tl.load(entry).to(tl.int64)
        map_height = tl.load(entry + 1)
        map_width = tl.load(entry + 2)
        number = tl.load(entry + 3)
        map_rows = (map_height + WINDOW_H - 1) // WINDOW_H
        map_columns = (map_width + WINDOW_W - 1) // WINDOW_W
    else:
        first = (window // (rows * columns)).to(tl.int64) * height * width
        number = window % (rows * columns)
        map_height, map_width, map_rows, map_columns = height, width, rows, columns
    row, column = number // map_columns, number % map_columns
    return first, map_height, map_width, map_rows, map_columns, row, column


@triton.jit
def _locate(
    local,
    first_row,
    first_column,
    is_border,
    height,
    width,
    rows,
    columns,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    ROLLS_FIRST: tl.constexpr,
):
    """Where the tokens of a window, whose first is at ``first_row, first_column``, lie on the map.

    Returns each token's place on the unpadded map, and whether it is on it (and not padding). In
    most windows that is a sum; where the map ends, tokens are rolled over and left out.
    ``ROLLS_FIRST``: the map itself goes round, and what fills up windows lies behind all of it.
    """
    row = local // WINDOW_W
    column = local % WINDOW_W
    on_map = local < WINDOW_H * WINDOW_W
    token = first_row * width + first_column + (row * width + column)
    if is_border:
        row += first_row
        column += first_column
        if ROLLS_FIRST:
            on_map = on_map & (row < height + first_row % WINDOW_H)
            on_map = on_map & (column < width + first_column % WINDOW_W)
            row, column = row % height, column % width
        else:
            row = tl.where(row >= rows * WINDOW_H, row - rows * WINDOW_H, row)
            column = tl.where(column >= columns * WINDOW_W, column - columns * WINDOW_W, column)
            on_map = on_map & (row < height) & (column < width)
        token = row * width + column
    return token, on_map


@triton.jit
def _own_area(
    valid,
    image,
    first_row,
    first_column,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
):
    """Rows and columns of an image's own area, and whether a window reaches beyond it."""
    height = tl.load(valid + image * 2)
    width = tl.load(valid + image * 2 + 1)
    is_partial = (first_row + WINDOW_H > height) | (first_column + WINDOW_W > width)
    return height, width, is_partial


@triton.jit
def _seen(
    local,
    on_map,
    first_row,
    first_column,
    is_partial,
    own_height,
    own_width,
    rows,
    columns,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
):
    """Whether tokens lie in the image's own area; all do, unless ``is_partial``."""
    seen = on_map
    if is_partial:
        row = first_row + local // WINDOW_W
        column = first_column + local % WINDOW_W
        row = tl.where(row >= rows * WINDOW_H, row - rows * WINDOW_H, row)
        column = tl.where(column >= columns * WINDOW_W, column - columns * WINDOW_W, column)
        seen = on_map & (row < own_height) & (column < own_width)
    return seen


@triton.jit
def _region(
    local,
    first_row,
    first_column,
    rows,
    columns,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
):
    """Two tokens of a window see each other if neither or both were rolled over each border."""
    rolled_down = first_row + local // WINDOW_W >= rows * WINDOW_H
    rolled_right = first_column + local % WINDOW_W >= columns * WINDOW_W
    return rolled_down.to(tl.int32) * 2 + rolled_right.to(tl.int32)


@triton.jit
def _gather(
    pointer,
    token,
    seen,
    fills,
    padding,
    stride,
    channel,
    HEAD: tl.constexpr,
    HAS_PADDING: tl.constexpr,
):
    """Rows of the map, the padding's row where a token only fills a window, zeros elsewhere.

    The padding's row is chosen by its address, so that what is read needs no further step.
    """
    address = pointer + (token * stride)[:, None] + channel[None, :]
    if HAS_PADDING:
        filler = padding + tl.zeros_like(token)[:, None] + channel[None, :]
        address = tl.where(fills[:, None], filler, address)
        seen = seen | fills
    return tl.load(address, mask=seen[:, None] & (channel < HEAD)[None, :], other=0.0)


@triton.jit
def _bias(
    table,
    head,
    query_local,
    key_local,
    heads,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
):
    """Relative position bias of each pair of tokens; minus infinity for keys beyond the window."""
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    WIDTH: tl.constexpr = 2 * WINDOW_W - 1
    query = query_local // WINDOW_W * WIDTH + query_local % WINDOW_W
    key = key_local // WINDOW_W * WIDTH + key_local % WINDOW_W
    index = query[:, None] - key[None, :] + (WINDOW_H - 1) * WIDTH + WINDOW_W - 1
    inside = (query_local < TOKENS)[:, None] & (key_local < TOKENS)[None, :]
    bias = tl.load(table + index * heads + head, mask=inside, other=0.0).to(tl.float32) * LOG2E
    return tl.where((key_local < TOKENS)[None, :], bias, float("-inf"))


@triton.jit
def _inverse_norm(rows):
    """1 / |row|; 0 for a row of zeros, whose direction is undefined."""
    wide = rows.to(tl.float32)
    square = tl.sum(wide * wide, 1)
    return tl.where(square > 1e-24, tl.rsqrt(square), 0.0)


@triton.jit
def _hide(
    scores,
    query_local,
    key_local,
    key_seen,
    first_row,
    first_column,
    is_border,
    is_partial,
    rows,
    columns,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SHIFTED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Minus infinity for the scores of keys that a query does not see."""
    if SHIFTED:
        if is_border:
            query = _region(query_local, first_row, first_column, rows, columns, WINDOW_H, WINDOW_W)
            key = _region(key_local, first_row, first_column, rows, columns, WINDOW_H, WINDOW_W)
            scores = tl.where(query[:, None] == key[None, :], scores, float("-inf"))
    if MASKED:
        if is_partial:
            scores = tl.where(key_seen[None, :], scores, float("-inf"))
    return scores


@triton.jit
def _exponentials(scores, SOME_HIDDEN: tl.constexpr):
    """Softmax before its division, and its divisor; all zero in rows that see no key."""
    highest = tl.max(scores, 1)
    if SOME_HIDDEN:  # rows beyond the window, too, may see no key
        highest = tl.maximum(highest, -1e30)
    exponentials = tl.exp2(scores - highest[:, None])
    total = tl.sum(exponentials, 1)
    if SOME_HIDDEN:
        total = tl.maximum(total, 1e-30)
    return exponentials, total


@triton.jit
def _dropout_factor(seed, pair, drop):
    """1 / (1 - drop) where an attention weight is kept, 0 where it is dropped."""
    return tl.where(tl.rand(seed, pair) >= drop, 1.0 / (1.0 - drop), 0.0)


@kernel(*SIZES)
def attention_forward(
    qkv,
    table,
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
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SHIFT_H: tl.constexpr,
    SHIFT_W: tl.constexpr,
    ROLLS_FIRST: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    COSINE: tl.constexpr,
    MASKED: tl.constexpr,
    PACKED: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend with ``QUERIES`` queries of each window to all its keys.

    ``qkv`` is (B, H, W, 3 * HEADS * HEAD), ``table`` ((2 WINDOW_H - 1) (2 WINDOW_W - 1), HEADS),
    ``padding`` (3 * HEADS * HEAD), ``logit_scale`` (HEADS), ``valid`` (B, 2), ``out``
    (B, H, W, HEADS * HEAD). With ``PACKED``, ``qkv`` and ``out`` are lists of tokens, and
    ``packed`` is the table that :func:`_find_map` reads. The grid is (runs of windows, heads,
    blocks of queries).
    """
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    STRIDE: tl.constexpr = 3 * HEADS * HEAD
    head = tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    key_local = tl.arange(0, KEYS)
    query_local = key_local
    if QUERIES != KEYS:
        query_local = tl.program_id(2) * QUERIES + tl.arange(0, QUERIES)
    bias = _bias(table, head, query_local, key_local, HEADS, WINDOW_H, WINDOW_W)
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
        is_border = (first_row + WINDOW_H > height) | (first_column + WINDOW_W > width)
        is_partial = is_border  # whether some of its tokens may be no keys
        key_token, key_on_map = _locate(
            key_local, first_row, first_column, is_border, height, width, rows, columns,
            WINDOW_H, WINDOW_W, ROLLS_FIRST,
        )  # fmt: skip
        query_token, query_on_map = key_token, key_on_map
        if QUERIES != KEYS:
            query_token, query_on_map = _locate(
                query_local, first_row, first_column, is_border, height, width, rows, columns,
                WINDOW_H, WINDOW_W, ROLLS_FIRST,
            )  # fmt: skip
        query_seen, key_seen = query_on_map, key_on_map
        if MASKED and not PACKED:  # all of a packed map is valid
            own_height, own_width, is_partial = _own_area(
                valid, window // (rows * columns), first_row, first_column, WINDOW_H, WINDOW_W
            )
            key_seen = _seen(
                key_local, key_on_map, first_row, first_column, is_partial, own_height, own_width,
                rows, columns, WINDOW_H, WINDOW_W,
            )  # fmt: skip
            query_seen = key_seen
            if QUERIES != KEYS:
                query_seen = _seen(
                    query_local, query_on_map, first_row, first_column, is_partial, own_height,
                    own_width, rows, columns, WINDOW_H, WINDOW_W,
                )  # fmt: skip
        key_fills = (key_local < TOKENS) & (key_on_map == 0)
        source = qkv + origin * STRIDE + head * HEAD
        part = padding + head * HEAD
        query = _gather(  # padding's own result is cut off
            source, query_token, query_seen, key_fills, part, STRIDE, channel, HEAD, False
        )
        key = _gather(
            source + HEADS * HEAD, key_token, key_seen, key_fills, part + HEADS * HEAD, STRIDE,
            channel, HEAD, HAS_PADDING,
        )  # fmt: skip
        value = _gather(
            source + 2 * HEADS * HEAD, key_token, key_seen, key_fills, part + 2 * HEADS * HEAD,
            STRIDE, channel, HEAD, HAS_PADDING,
        )  # fmt: skip
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        if COSINE:
            scores = scores * _inverse_norm(query)[:, None] * _inverse_norm(key)[None, :]
        scores = _hide(
            scores * scale + bias, query_local, key_local, key_seen, first_row, first_column,
            is_border, is_partial, rows, columns, WINDOW_H, WINDOW_W, SHIFT_H + SHIFT_W > 0, MASKED,
        )  # fmt: skip
        exponentials, total = _exponentials(scores, MASKED or SHIFT_H + SHIFT_W > 0)
        if DROPOUT:
            pair = query_local[:, None] * TOKENS + key_local[None, :]
            position = (window * HEADS + head) * TOKENS * TOKENS + pair
            exponentials *= _dropout_factor(tl.load(seed_pointer), position, drop)
        attended = tl.dot(exponentials.to(value.dtype), value, input_precision=PRECISION)
        attended = attended / total[:, None]
        if MASKED:
            attended = tl.where(query_seen[:, None], attended, 0.0)
        target = out + origin * (HEADS * HEAD) + head * HEAD
        address = target + (query_token * (HEADS * HEAD))[:, None] + channel[None, :]
        written = query_on_map[:, None] & (channel < HEAD)[None, :]
        tl.store(address, attended.to(out.dtype.element_ty), mask=written)


@kernel(*SIZES)
def attention_backward(
    qkv,
    table,
    padding,
    logit_scale,
    valid,
    packed,
    seed_pointer,
    grad_out,
    grad_qkv,
    partials,
    scale,
    drop,
    windows,
    windows_per_program,
    grid_rows,
    grid_columns,
    grid_height,
    grid_width,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SHIFT_H: tl.constexpr,
    SHIFT_W: tl.constexpr,
    ROLLS_FIRST: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    PITCH: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    COSINE: tl.constexpr,
    MASKED: tl.constexpr,
    PACKED: tl.constexpr,
    DROPOUT: tl.constexpr,
    SUM_ALL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`attention_forward`; scores and weights are recomputed.

    Each program's partial sums of gradients that all windows add to are added up afterwards, in
    a fixed order. ``partials`` (runs, PITCH) float32 holds for each run the gradients of the bias
    of each pair, (HEADS, BLOCKS * QUERIES * KEYS), zero at the start if BLOCKS > 1; of query, key
    and value, (3, HEADS, HEAD), over the tokens that fill windows or, with ``SUM_ALL``, over all of
    them (the projection's bias is part of every token); and, with ``COSINE``, of the logit scale,
    (HEADS). Padding has no query that counts, since its output is cut off. The grid is (runs of
    windows, heads).
    """
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    STRIDE: tl.constexpr = 3 * HEADS * HEAD
    run, head = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    key_local = tl.arange(0, KEYS)
    inside = channel < HEAD
    element = grad_qkv.dtype.element_ty
    PAIRS: tl.constexpr = BLOCKS * QUERIES * KEYS
    partials += run.to(tl.int64) * PITCH
    bias_partials = partials + head * PAIRS
    if COSINE:
        scale = tl.load(logit_scale + head).to(tl.float32)
    if BLOCKS == 1:
        first_local = tl.arange(0, QUERIES)
        first_bias = _bias(table, head, first_local, key_local, HEADS, WINDOW_H, WINDOW_W)
    bias_sum = tl.zeros([QUERIES, KEYS], tl.float32)
    # Summed over tokens at the end: across the threads of a program that costs too much each time.
    query_sum = tl.zeros([QUERIES, CHANNELS], tl.float32)
    key_sum = tl.zeros([KEYS, CHANNELS], tl.float32)
    value_sum = tl.zeros([KEYS, CHANNELS], tl.float32)
    scale_sum = tl.zeros([QUERIES], tl.float32)

    first = run * windows_per_program
    for window in range(first, tl.minimum(first + windows_per_program, windows)):
        origin, height, width, rows, columns, window_row, window_column = _find_map(
            window, packed, grid_rows, grid_columns, grid_height, grid_width, WINDOW_H, WINDOW_W,
            PACKED,
        )  # fmt: skip
        first_row = window_row * WINDOW_H + SHIFT_H
        first_column = window_column * WINDOW_W + SHIFT_W
        is_border = (first_row + WINDOW_H > height) | (first_column + WINDOW_W > width)
        is_partial = is_border  # whether some of its tokens may be no keys
        key_token, key_on_map = _locate(
            key_local, first_row, first_column, is_border, height, width, rows, columns,
            WINDOW_H, WINDOW_W, ROLLS_FIRST,
        )  # fmt: skip
        key_fills = (key_local < TOKENS) & (key_on_map == 0)
        key_seen = key_on_map
        if MASKED and not PACKED:  # all of a packed map is valid
            own_height, own_width, is_partial = _own_area(
                valid, window // (rows * columns), first_row, first_column, WINDOW_H, WINDOW_W
            )
            key_seen = _seen(
                key_local, key_on_map, first_row, first_column, is_partial, own_height, own_width,
                rows, columns, WINDOW_H, WINDOW_W,
            )  # fmt: skip
        source = qkv + origin * STRIDE + head * HEAD
        part = padding + head * HEAD
        key = _gather(
            source + HEADS * HEAD, key_token, key_seen, key_fills, part + HEADS * HEAD, STRIDE,
            channel, HEAD, HAS_PADDING,
        )  # fmt: skip
        value = _gather(
            source + 2 * HEADS * HEAD, key_token, key_seen, key_fills, part + 2 * HEADS * HEAD,
            STRIDE, channel, HEAD, HAS_PADDING,
        )  # fmt: skip
        if COSINE:
            key_inverse = _inverse_norm(key)
        grad_image = grad_qkv + origin * STRIDE + head * HEAD
        grad_source = grad_out + origin * (HEADS * HEAD) + head * HEAD
        grad_key = tl.zeros([KEYS, CHANNELS], tl.float32)
        grad_value = tl.zeros([KEYS, CHANNELS], tl.float32)
        key_mean = tl.zeros([KEYS], tl.float32)
        for block in range(BLOCKS):
            query_local = key_local
            if QUERIES != KEYS:
                query_local = block * QUERIES + tl.arange(0, QUERIES)
            if BLOCKS == 1:
                bias = first_bias
            else:
                bias = _bias(table, head, query_local, key_local, HEADS, WINDOW_H, WINDOW_W)
            query_token, query_on_map, query_seen = key_token, key_on_map, key_seen
            if QUERIES != KEYS:
                query_token, query_on_map = _locate(
                    query_local, first_row, first_column, is_border, height, width, rows, columns,
                    WINDOW_H, WINDOW_W, ROLLS_FIRST,
                )  # fmt: skip
                query_seen = query_on_map
                if MASKED and not PACKED:
                    query_seen = _seen(
                        query_local, query_on_map, first_row, first_column, is_partial, own_height,
                        own_width, rows, columns, WINDOW_H, WINDOW_W,
                    )  # fmt: skip
            query = _gather(
                source, query_token, query_seen, key_fills, part, STRIDE, channel, HEAD, False
            )
            address = grad_source + (query_token * (HEADS * HEAD))[:, None] + channel[None, :]
            grad_attended = tl.load(address, mask=query_seen[:, None] & inside[None, :], other=0.0)

            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
            if COSINE:
                query_inverse = _inverse_norm(query)
                scores = scores * query_inverse[:, None] * key_inverse[None, :]
            hidden = _hide(
                scores * (scale * LOG2E) + bias, query_local, key_local, key_seen, first_row,
                first_column, is_border, is_partial, rows, columns, WINDOW_H, WINDOW_W,
                SHIFT_H + SHIFT_W > 0, MASKED,
            )  # fmt: skip
            exponentials, total = _exponentials(hidden, MASKED or SHIFT_H + SHIFT_W > 0)
            weights = exponentials / total[:, None]
            grad_weights = tl.dot(grad_attended, tl.trans(value), input_precision=PRECISION)
            kept = weights
            if DROPOUT:
                pair = query_local[:, None] * TOKENS + key_local[None, :]
                position = (window * HEADS + head) * TOKENS * TOKENS + pair
                factor = _dropout_factor(tl.load(seed_pointer), position, drop)
                kept = weights * factor
                grad_weights *= factor
            grad_value += tl.dot(
                tl.trans(kept.to(value.dtype)), grad_attended, input_precision=PRECISION
            )
            mean = tl.sum(weights * grad_weights, 1)
            grad_scores = weights * (grad_weights - mean[:, None])
            if BLOCKS == 1:
                bias_sum += grad_scores
            else:
                spot = bias_partials + query_local[:, None] * KEYS + key_local[None, :]
                tl.store(spot, tl.load(spot) + grad_scores)
            if COSINE:
                # s = scale q.k / (|q| |k|): its gradient for q has no component along q.
                along = grad_scores * scores
                scale_sum += tl.sum(along, 1)
                to_key = (grad_scores * (scale * key_inverse)[None, :]).to(key.dtype)
                grad_query = tl.dot(to_key, key, input_precision=PRECISION)
                drift = query_inverse * scale * tl.sum(along, 1)
                grad_query -= query.to(tl.float32) * drift[:, None]
                grad_query *= query_inverse[:, None]
                key_mean += tl.sum(along, 0)
                to_query = (grad_scores * (scale * query_inverse)[:, None]).to(key.dtype)
                grad_key += tl.dot(tl.trans(to_query), query, input_precision=PRECISION)
            else:
                scaled = (grad_scores * scale).to(key.dtype)
                grad_query = tl.dot(scaled, key, input_precision=PRECISION)
                grad_key += tl.dot(tl.trans(scaled), query, input_precision=PRECISION)
            address = grad_image + (query_token * STRIDE)[:, None] + channel[None, :]
            tl.store(address, grad_query.to(element), mask=query_on_map[:, None] & inside[None, :])
            if SUM_ALL:
                query_sum += grad_query
        if COSINE:
            drift = key_inverse * scale * key_mean
            grad_key = (grad_key - key.to(tl.float32) * drift[:, None]) * key_inverse[:, None]
        address = grad_image + (key_token * STRIDE)[:, None] + channel[None, :]
        written = key_on_map[:, None] & inside[None, :]
        tl.store(address + HEADS * HEAD, grad_key.to(element), mask=written)
        tl.store(address + 2 * HEADS * HEAD, grad_value.to(element), mask=written)
        if SUM_ALL:
            value_sum += grad_value
            if COSINE:  # else its sum over keys is zero, since scores matter up to a constant
                key_sum += grad_key
        elif HAS_PADDING:
            if is_border:
                key_sum += tl.where(key_fills[:, None], grad_key, 0.0)
                value_sum += tl.where(key_fills[:, None], grad_value, 0.0)

    if BLOCKS == 1:
        local = tl.arange(0, QUERIES)
        tl.store(bias_partials + local[:, None] * KEYS + key_local[None, :], bias_sum)
    target = partials + HEADS * PAIRS + head * HEAD + channel
    tl.store(target, tl.sum(query_sum, 0), mask=inside)
    tl.store(target + HEADS * HEAD, tl.sum(key_sum, 0), mask=inside)
    tl.store(target + 2 * HEADS * HEAD, tl.sum(value_sum, 0), mask=inside)
    if COSINE:
        tl.store(partials + HEADS * (PAIRS + 3 * HEAD) + head, tl.sum(scale_sum, 0))
