"""Multi-scale deformable attention as Triton kernels, forward and backward.

A row is one head of one query. Threads lie along channels, so that each of the four values around a
point is read in words of 16 bytes; where it lies is found out once for each row and not once for
each channel. Sums are float32 whatever is read. What a point has outside of its map counts as zero,
and so do places beyond the keys, should the shapes not fit them.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _pixel(locations, sample, known, height, width, IN_PIXELS: tl.constexpr):
    """Where a point lies, in pixels whose centres are integers; beyond all pixels, far outside."""
    x = tl.load(locations + 2 * sample, mask=known, other=-2.0).to(tl.float32)
    y = tl.load(locations + 2 * sample + 1, mask=known, other=-2.0).to(tl.float32)
    if not IN_PIXELS:
        x, y = x * width - 0.5, y * height - 0.5
    # NaN compares as outside, and integers cannot hold what is far outside.
    near = (x < width) & (y < height)
    if IN_PIXELS:  # a point at -1 gets nothing of the pixel at 0, but has its slope
        near &= (x >= -1.0) & (y >= -1.0)
    else:
        near &= (x > -1.0) & (y > -1.0)
    return tl.where(near, x, -2.0), tl.where(near, y, -2.0)


@kernel("rows", "keys")
def attend(
    value,
    shapes,
    locations,
    weights,
    out,
    rows,
    keys,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    IN_PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """``out`` (B, rows, CHANNELS) of ``value`` (B, keys, HEADS, CHANNELS).

    ``shapes`` are (LEVELS, 2), ``locations`` (B, rows, LEVELS, POINTS, 2), ``weights`` the same
    without the last axis; HEADS divides rows. Locations go from 0 to 1 across a map, or IN_PIXELS
    from 0 at the centre of the first pixel. The grid is blocks of rows, then images.
    """
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    channel = tl.arange(0, COLUMNS)[None, :]
    in_head = channel < CHANNELS
    value += image * keys * (HEADS * CHANNELS)
    locations += image * rows * (LEVELS * POINTS * 2)
    weights += image * rows * (LEVELS * POINTS)
    head = row % HEADS * CHANNELS
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    start = 0
    for level in range(LEVELS):
        height = tl.load(shapes + 2 * level).to(tl.int32)
        width = tl.load(shapes + 2 * level + 1).to(tl.int32)
        for group in range(0, POINTS, UNROLL):
            for step in tl.static_range(UNROLL):
                sample = (row * LEVELS + level) * POINTS + group + step
                x, y = _pixel(locations, sample, live, height, width, IN_PIXELS)
                weight = tl.load(weights + sample, mask=live, other=0.0).to(tl.float32)
                left, top = tl.floor(x), tl.floor(y)
                across, down = x - left, y - top
                column, line = left.to(tl.int32), top.to(tl.int32)
                place = start + line * width + column
                for corner in tl.static_range(4):
                    right, below = corner % 2, corner // 2
                    at = place + below * width + right
                    known = (column + right >= 0) & (column + right < width)
                    known &= (line + below >= 0) & (line + below < height) & (at < keys)
                    part = tl.where(right == 1, across, 1.0 - across)
                    part *= tl.where(below == 1, down, 1.0 - down) * weight
                    source = value + (at * (HEADS * CHANNELS) + head)[:, None] + channel
                    around = tl.load(source, mask=known[:, None] & in_head, other=0.0)
                    total += part[:, None] * around
        start += height * width
    target = out + (image * rows + row)[:, None] * CHANNELS + channel
    tl.store(target, total, mask=live[:, None] & in_head)


@kernel("rows", "keys")
def attend_backward(
    grad_out,
    value,
    shapes,
    locations,
    weights,
    grad_value,
    grad_locations,
    grad_weights,
    rows,
    keys,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    IN_PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNROLL: tl.constexpr,
    SCATTER: tl.constexpr,
):
    """Gradients of :func:`attend`; the grid is the same.

    With SCATTER, ``grad_value``, float32 and zeros, is added to atomically; else it is left alone.
    """
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    channel = tl.arange(0, COLUMNS)[None, :]
    in_head = channel < CHANNELS
    value += image * keys * (HEADS * CHANNELS)
    grad_value += image * keys * (HEADS * CHANNELS)
    locations += image * rows * (LEVELS * POINTS * 2)
    grad_locations += image * rows * (LEVELS * POINTS * 2)
    weights += image * rows * (LEVELS * POINTS)
    grad_weights += image * rows * (LEVELS * POINTS)
    head = row % HEADS * CHANNELS
    source = grad_out + (image * rows + row)[:, None] * CHANNELS + channel
    grad = tl.load(source, mask=live[:, None] & in_head, other=0.0).to(tl.float32)
    start = 0
    for level in range(LEVELS):
        height = tl.load(shapes + 2 * level).to(tl.int32)
        width = tl.load(shapes + 2 * level + 1).to(tl.int32)
        for group in range(0, POINTS, UNROLL):
            for step in tl.static_range(UNROLL):
                sample = (row * LEVELS + level) * POINTS + group + step
                x, y = _pixel(locations, sample, live, height, width, IN_PIXELS)
                weight = tl.load(weights + sample, mask=live, other=0.0).to(tl.float32)
                left, top = tl.floor(x), tl.floor(y)
                across, down = x - left, y - top
                column, line = left.to(tl.int32), top.to(tl.int32)
                place = start + line * width + column
                of_weight = tl.zeros([ROWS], tl.float32)
                of_x = tl.zeros([ROWS], tl.float32)
                of_y = tl.zeros([ROWS], tl.float32)
                for corner in tl.static_range(4):
                    right, below = corner % 2, corner // 2
                    at = place + below * width + right
                    known = (column + right >= 0) & (column + right < width)
                    known &= (line + below >= 0) & (line + below < height) & (at < keys)
                    of_column = tl.where(right == 1, across, 1.0 - across)
                    of_row = tl.where(below == 1, down, 1.0 - down)
                    place_of = (at * (HEADS * CHANNELS) + head)[:, None] + channel
                    mask = known[:, None] & in_head
                    around = tl.load(value + place_of, mask=mask, other=0.0).to(tl.float32)
                    along = tl.sum(grad * around, 1)
                    of_weight += of_row * of_column * along
                    of_x += tl.where(right == 1, of_row, -of_row) * along
                    of_y += tl.where(below == 1, of_column, -of_column) * along
                    if SCATTER:
                        part = of_row * of_column * weight
                        tl.atomic_add(
                            grad_value + place_of, part[:, None] * grad, mask=mask, sem="relaxed"
                        )
                tl.store(grad_weights + sample, of_weight, mask=live)
                if not IN_PIXELS:
                    of_x, of_y = of_x * width, of_y * height
                tl.store(grad_locations + 2 * sample, of_x * weight, mask=live)
                tl.store(grad_locations + 2 * sample + 1, of_y * weight, mask=live)
        start += height * width


@kernel("rows", "keys", "samples")
def cells_of_points(
    shapes,
    locations,
    cells,
    rows,
    keys,
    samples,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    IN_PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``cells`` (B, rows, LEVELS, POINTS) int32: image and head, and the pixel above and to the
    left of a point, or the nearest to it; of points outside of their map a number beyond all.

    ``samples`` are those of all images. The grid is blocks of samples.
    """
    sample = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    known = sample < samples
    level = sample // POINTS % LEVELS
    row = sample // (LEVELS * POINTS)
    start = tl.zeros([BLOCK], tl.int32)
    height = tl.zeros([BLOCK], tl.int32)
    width = tl.zeros([BLOCK], tl.int32)
    for other in tl.static_range(LEVELS):
        high = tl.load(shapes + 2 * other).to(tl.int32)
        wide = tl.load(shapes + 2 * other + 1).to(tl.int32)
        start += tl.where(other < level, high * wide, 0)
        height = tl.where(other == level, high, height)
        width = tl.where(other == level, wide, width)
    x, y = _pixel(locations, sample, known, height, width, IN_PIXELS)
    column = tl.maximum(tl.floor(x).to(tl.int32), 0)
    line = tl.maximum(tl.floor(y).to(tl.int32), 0)
    map_of_head = (row // rows * HEADS + row % HEADS).to(tl.int32)
    place = start + line * width + column
    total = samples // (rows * (LEVELS * POINTS)) * (HEADS * keys)
    inside = (x > -2.0) & (place < keys)
    tl.store(cells + sample, tl.where(inside, map_of_head * keys + place, total), mask=known)


@kernel("rows", "keys")
def gather_value_gradient(
    grad_out,
    shapes,
    locations,
    weights,
    order,
    first,
    grad_value,
    rows,
    keys,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    IN_PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``grad_value`` (B, keys, HEADS, CHANNELS): each value sums what its points give it, in order.

    ``order`` (samples,) sorts points by their cells, ``first`` (B HEADS keys + 1,) is where each
    cell begins in it. Around a pixel lie the points of four cells, two by two one after the other.
    The grid is keys, heads, images.
    """
    key, head = tl.program_id(0), tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, COLUMNS)[None, :]
    in_head = channel < CHANNELS
    start, begin, width, height, level = 0, 0, 1, 1, 0
    for other in tl.static_range(LEVELS):
        high = tl.load(shapes + 2 * other).to(tl.int32)
        wide = tl.load(shapes + 2 * other + 1).to(tl.int32)
        here = (key >= begin) & (key < begin + high * wide)
        start = tl.where(here, begin, start)
        height, width = tl.where(here, high, height), tl.where(here, wide, width)
        level = tl.where(here, other, level)
        begin += high * wide
    line, column = (key - start) // width, (key - start) % width
    cells = (image * HEADS + head) * keys + start
    total = tl.zeros([COLUMNS], tl.float32)
    for below in tl.static_range(2):
        upper = line - 1 + below
        known = (upper >= 0) & (key < begin)
        cell = first + cells + upper * width
        beginning = tl.load(cell + tl.maximum(column - 1, 0), mask=known, other=0)
        end = tl.load(cell + column + 1, mask=known, other=0)
        for place in range(beginning, end, SAMPLES):
            number = place + tl.arange(0, SAMPLES)
            live = number < end
            sample = tl.load(order + number, mask=live, other=0)
            x, y = _pixel(locations, sample, live, height, width, IN_PIXELS)
            part = tl.maximum(1.0 - tl.abs(x - column), 0.0)
            part *= tl.maximum(1.0 - tl.abs(y - line), 0.0)
            part *= tl.load(weights + sample, mask=live, other=0.0)
            source = grad_out + (sample // (LEVELS * POINTS) * CHANNELS)[:, None] + channel
            grad = tl.load(source, mask=live[:, None] & in_head, other=0.0)
            total += tl.sum(part[:, None] * grad, 0)
    out = (image * keys + key) * (HEADS * CHANNELS) + head * CHANNELS + tl.arange(0, COLUMNS)
    tl.store(grad_value + out, total, mask=tl.arange(0, COLUMNS) < CHANNELS)
