"""Shifted-window attention as two Triton kernels: no roll, partition, mask or score tensor.

A program owns one head and a run of windows. For each window it gathers queries, keys and values
from the unpadded map by index arithmetic, keeps scores and weights on chip, and writes each token's
result where the token came from. A token lies in one window, so no two programs write the same
element, and nothing is added up atomically: results are the same bits from run to run.

Sizes are in tokens. ``TOKENS`` is the number of tokens of a window, ``KEYS`` and ``CHANNELS`` the
powers of two that hold them and a head's channels.
"""

import triton
import triton.language as tl


@triton.jit
def _locate(
    local,
    window_row,
    window_column,
    height,
    width,
    padded_height,
    padded_width,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SHIFT_H: tl.constexpr,
    SHIFT_W: tl.constexpr,
):
    """Where the tokens of a window lie on the unpadded map.

    Returns the token's position in the flattened map, whether it is on the map (and not padding),
    and its region: two tokens see each other if neither or both were rolled over each border.
    """
    row = window_row * WINDOW_H + local // WINDOW_W
    column = window_column * WINDOW_W + local % WINDOW_W
    region = (row >= padded_height - SHIFT_H).to(tl.int32) * 2
    region += (column >= padded_width - SHIFT_W).to(tl.int32)
    row += SHIFT_H
    column += SHIFT_W
    row = tl.where(row >= padded_height, row - padded_height, row)
    column = tl.where(column >= padded_width, column - padded_width, column)
    on_map = (local < WINDOW_H * WINDOW_W) & (row < height) & (column < width)
    return row * width + column, on_map, region


@triton.jit
def _gather(
    pointer,
    token,
    on_map,
    local,
    padding,
    stride,
    channel,
    HEAD: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Rows of the map, the padding's row where a token only fills a window, zeros beyond it."""
    inside = channel < HEAD
    address = pointer + token.to(tl.int64)[:, None] * stride + channel[None, :]
    rows = tl.load(address, mask=on_map[:, None] & inside[None, :], other=0.0)
    fills = (local < TOKENS) & (on_map == 0)
    return tl.where(fills[:, None], padding[None, :].to(rows.dtype), rows)


@triton.jit
def _weights(
    query,
    key,
    bias,
    scale,
    query_region,
    key_region,
    key_local,
    TOKENS: tl.constexpr,
    SHIFTED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Softmax over a window's keys, in float32; zero for keys beyond the window."""
    scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale + bias
    allowed = (key_local < TOKENS)[None, :]
    if SHIFTED:
        allowed = allowed & (query_region[:, None] == key_region[None, :])
    scores = tl.where(allowed, scores, float("-inf"))
    # Rows beyond the window may allow no key; their maximum must not be minus infinity.
    highest = tl.maximum(tl.max(scores, 1), -1e30)
    weights = tl.exp(scores - highest[:, None])
    total = tl.maximum(tl.sum(weights, 1), 1e-30)
    return weights / total[:, None]


@triton.jit
def _keep(seed, pair, drop):
    """1 / (1 - drop) where an attention weight is kept, 0 where it is dropped."""
    return tl.where(tl.rand(seed, pair) >= drop, 1.0 / (1.0 - drop), 0.0)


@triton.jit
def attention_forward(
    qkv,
    bias,
    padding,
    seed_pointer,
    out,
    scale,
    drop,
    windows,
    windows_per_program,
    rows,
    columns,
    height,
    width,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SHIFT_H: tl.constexpr,
    SHIFT_W: tl.constexpr,
    TOKENS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend with ``QUERIES`` queries of each window to all its keys.

    ``qkv`` is (B, H, W, 3 * HEADS * HEAD), ``bias`` (HEADS, TOKENS, TOKENS), ``padding``
    (3 * HEADS * HEAD), ``out`` (B, H, W, HEADS * HEAD). The grid is (runs of windows, heads, blocks
    of queries).
    """
    head = tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    key_local = tl.arange(0, KEYS)
    query_local = tl.program_id(2) * QUERIES + tl.arange(0, QUERIES)
    in_window = (query_local < TOKENS)[:, None] & (key_local < TOKENS)[None, :]
    pair = query_local[:, None] * TOKENS + key_local[None, :]
    head_bias = tl.load(bias + head * TOKENS * TOKENS + pair, mask=in_window, other=0.0)
    head_bias = head_bias.to(tl.float32)

    STRIDE: tl.constexpr = 3 * HEADS * HEAD
    inside = channel < HEAD
    pad_query = tl.load(padding + head * HEAD + channel, mask=inside, other=0.0)
    pad_key = tl.load(padding + (HEADS + head) * HEAD + channel, mask=inside, other=0.0)
    pad_value = tl.load(padding + (2 * HEADS + head) * HEAD + channel, mask=inside, other=0.0)

    first = tl.program_id(0) * windows_per_program
    for window in range(first, tl.minimum(first + windows_per_program, windows)):
        batch = window // (rows * columns)
        window_row = window % (rows * columns) // columns
        window_column = window % columns
        query_token, query_on_map, query_region = _locate(
            query_local, window_row, window_column, height, width, rows * WINDOW_H,
            columns * WINDOW_W, WINDOW_H, WINDOW_W, SHIFT_H, SHIFT_W,
        )  # fmt: skip
        key_token, key_on_map, key_region = _locate(
            key_local, window_row, window_column, height, width, rows * WINDOW_H,
            columns * WINDOW_W, WINDOW_H, WINDOW_W, SHIFT_H, SHIFT_W,
        )  # fmt: skip
        image = qkv + batch.to(tl.int64) * height * width * STRIDE + head * HEAD
        query = _gather(
            image, query_token, query_on_map, query_local, pad_query, STRIDE, channel, HEAD, TOKENS
        )
        key = _gather(
            image + HEADS * HEAD, key_token, key_on_map, key_local, pad_key, STRIDE, channel,
            HEAD, TOKENS,
        )  # fmt: skip
        value = _gather(
            image + 2 * HEADS * HEAD, key_token, key_on_map, key_local, pad_value, STRIDE, channel,
            HEAD, TOKENS,
        )  # fmt: skip
        weights = _weights(
            query, key, head_bias, scale, query_region, key_region, key_local, TOKENS,
            SHIFT_H + SHIFT_W > 0, PRECISION,
        )  # fmt: skip
        if DROPOUT:
            position = (window * HEADS + head) * TOKENS * TOKENS + pair
            weights *= _keep(tl.load(seed_pointer), position, drop)
        attended = tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        target = out + batch.to(tl.int64) * height * width * (HEADS * HEAD) + head * HEAD
        address = target + query_token.to(tl.int64)[:, None] * (HEADS * HEAD) + channel[None, :]
        written = query_on_map[:, None] & inside[None, :]
        tl.store(address, attended.to(out.dtype.element_ty), mask=written)


@triton.jit
def attention_backward(
    qkv,
    bias,
    padding,
    seed_pointer,
    grad_out,
    grad_qkv,
    grad_bias,
    grad_padding,
    scale,
    drop,
    windows,
    windows_per_program,
    rows,
    columns,
    height,
    width,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SHIFT_H: tl.constexpr,
    SHIFT_W: tl.constexpr,
    TOKENS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`attention_forward`; scores and weights are computed anew.

    ``grad_bias`` is (runs, HEADS, BLOCKS * QUERIES, KEYS) float32, zero at the start, and
    ``grad_padding`` (runs, HEADS, 2, CHANNELS) float32, keys before values: each program's share,
    to be summed over the runs. Padding has no query that counts, since its output is cut off. The
    grid is (runs of windows, heads).
    """
    run, head = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    key_local = tl.arange(0, KEYS)

    STRIDE: tl.constexpr = 3 * HEADS * HEAD
    inside = channel < HEAD
    pad_query = tl.load(padding + head * HEAD + channel, mask=inside, other=0.0)
    pad_key = tl.load(padding + (HEADS + head) * HEAD + channel, mask=inside, other=0.0)
    pad_value = tl.load(padding + (2 * HEADS + head) * HEAD + channel, mask=inside, other=0.0)
    grad_pad_key = tl.zeros([CHANNELS], tl.float32)
    grad_pad_value = tl.zeros([CHANNELS], tl.float32)
    bias_sum = tl.zeros([QUERIES, KEYS], tl.float32)
    share = grad_bias + (run * HEADS + head).to(tl.int64) * BLOCKS * QUERIES * KEYS

    first = run * windows_per_program
    for window in range(first, tl.minimum(first + windows_per_program, windows)):
        batch = window // (rows * columns)
        window_row = window % (rows * columns) // columns
        window_column = window % columns
        key_token, key_on_map, key_region = _locate(
            key_local, window_row, window_column, height, width, rows * WINDOW_H,
            columns * WINDOW_W, WINDOW_H, WINDOW_W, SHIFT_H, SHIFT_W,
        )  # fmt: skip
        image = qkv + batch.to(tl.int64) * height * width * STRIDE + head * HEAD
        key = _gather(
            image + HEADS * HEAD, key_token, key_on_map, key_local, pad_key, STRIDE, channel,
            HEAD, TOKENS,
        )  # fmt: skip
        value = _gather(
            image + 2 * HEADS * HEAD, key_token, key_on_map, key_local, pad_value, STRIDE, channel,
            HEAD, TOKENS,
        )  # fmt: skip
        grad_image = grad_qkv + batch.to(tl.int64) * height * width * STRIDE + head * HEAD
        source = grad_out + batch.to(tl.int64) * height * width * (HEADS * HEAD) + head * HEAD
        grad_key = tl.zeros([KEYS, CHANNELS], tl.float32)
        grad_value = tl.zeros([KEYS, CHANNELS], tl.float32)
        for block in range(BLOCKS):
            query_local = block * QUERIES + tl.arange(0, QUERIES)
            query_token, query_on_map, query_region = _locate(
                query_local, window_row, window_column, height, width, rows * WINDOW_H,
                columns * WINDOW_W, WINDOW_H, WINDOW_W, SHIFT_H, SHIFT_W,
            )  # fmt: skip
            query = _gather(
                image, query_token, query_on_map, query_local, pad_query, STRIDE, channel, HEAD,
                TOKENS,
            )  # fmt: skip
            in_window = (query_local < TOKENS)[:, None] & (key_local < TOKENS)[None, :]
            pair = query_local[:, None] * TOKENS + key_local[None, :]
            block_bias = tl.load(bias + head * TOKENS * TOKENS + pair, mask=in_window, other=0.0)
            weights = _weights(
                query, key, block_bias.to(tl.float32), scale, query_region, key_region, key_local,
                TOKENS, SHIFT_H + SHIFT_W > 0, PRECISION,
            )  # fmt: skip
            written = query_on_map[:, None] & inside[None, :]
            address = source + query_token.to(tl.int64)[:, None] * (HEADS * HEAD) + channel[None, :]
            grad_attended = tl.load(address, mask=written, other=0.0)
            grad_weights = tl.dot(grad_attended, tl.trans(value), input_precision=PRECISION)
            kept = weights
            if DROPOUT:
                position = (window * HEADS + head) * TOKENS * TOKENS + pair
                keep = _keep(tl.load(seed_pointer), position, drop)
                kept = weights * keep
                grad_weights *= keep
            grad_value += tl.dot(
                tl.trans(kept.to(value.dtype)), grad_attended, input_precision=PRECISION
            )
            mean = tl.sum(weights * grad_weights, 1)
            grad_scores = weights * (grad_weights - mean[:, None])
            if BLOCKS == 1:
                bias_sum += grad_scores
            else:
                spot = share + query_local[:, None] * KEYS + key_local[None, :]
                tl.store(spot, tl.load(spot) + grad_scores)
            scaled = (grad_scores * scale).to(key.dtype)
            grad_query = tl.dot(scaled, key, input_precision=PRECISION)
            grad_key += tl.dot(tl.trans(scaled), query, input_precision=PRECISION)
            address = grad_image + query_token.to(tl.int64)[:, None] * STRIDE + channel[None, :]
            tl.store(address, grad_query.to(grad_qkv.dtype.element_ty), mask=written)
        address = grad_image + key_token.to(tl.int64)[:, None] * STRIDE + channel[None, :]
        written = key_on_map[:, None] & inside[None, :]
        element = grad_qkv.dtype.element_ty
        tl.store(address + HEADS * HEAD, grad_key.to(element), mask=written)
        tl.store(address + 2 * HEADS * HEAD, grad_value.to(element), mask=written)
        fills = ((key_local < TOKENS) & (key_on_map == 0))[:, None]
        grad_pad_key += tl.sum(tl.where(fills, grad_key, 0.0), 0)
        grad_pad_value += tl.sum(tl.where(fills, grad_value, 0.0), 0)

    if BLOCKS == 1:
        local = tl.arange(0, QUERIES)
        tl.store(share + local[:, None] * KEYS + key_local[None, :], bias_sum)
    target = grad_padding + (run * HEADS + head) * 2 * CHANNELS + channel
    tl.store(target, grad_pad_key)
    tl.store(target + CHANNELS, grad_pad_value)
