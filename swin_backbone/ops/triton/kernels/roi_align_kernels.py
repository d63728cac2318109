"""RoI align of channels-last maps as Triton kernels, forward and, gathering, backward.

Samples of a bin lie on a grid, so that what a region's bins have of a tile of 8x8 pixels is a
product of a part of rows and a part of columns: a matrix, by which forward and backward multiply.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _side(near, far, scale, ALIGNED: tl.constexpr):
    """Beginning and length of a region along one axis, in pixels of the map."""
    start, end = near * scale, far * scale
    if ALIGNED:
        start, end = start - 0.5, end - 0.5
    length = end - start
    # What is no number, or no length, has no samples.
    length = tl.where((length > -32768.0) & (length < 32768.0), length, 0.0)
    start = tl.where((start > -1e9) & (start < 1e9), start, -1e9)
    return start, length if ALIGNED else tl.maximum(length, 1.0)


@triton.jit
def _samples(length, BINS: tl.constexpr, RATIO: tl.constexpr):
    """Samples of a bin along one axis."""
    return RATIO if RATIO > 0 else tl.ceil(length / BINS).to(tl.int32)


@triton.jit
def _reach(start, length, extent):
    """First and last pixel that a region has a part of."""
    last = extent - 1.0
    first = tl.minimum(tl.maximum(start, 0.0), last)
    end = tl.minimum(tl.maximum(start + length, 0.0), last)
    return tl.floor(first).to(tl.int32), tl.floor(end).to(tl.int32) + 1


@triton.jit
def _parts(start, length, samples, number, pixel, extent, BINS: tl.constexpr):
    """What the mean of a bin's samples has of a pixel; ``number`` and ``pixel`` are broadcast."""
    step = length / BINS
    total = tl.zeros_like(number.to(tl.float32) + pixel.to(tl.float32))
    for sample in range(samples):
        place = start + number * step + (sample + 0.5) * step / samples
        known = (place >= -1.0) & (place <= extent)
        place = tl.minimum(tl.maximum(place, 0.0), extent - 1.0)
        part = tl.maximum(1.0 - tl.abs(place - pixel), 0.0)
        total += tl.where(known, part, 0.0)
    return total / tl.maximum(samples, 1)


@triton.jit
def _multiply(parts, values, EXACT: tl.constexpr):
    """``parts`` are float32; those of 16-bit values are multiplied as sums of two 16-bit ones."""
    if EXACT:
        return tl.dot(parts, values, input_precision="tf32x3")
    high = parts.to(values.dtype)
    low = (parts - high.to(tl.float32)).to(values.dtype)
    return tl.dot(high, values) + tl.dot(low, values)


@kernel("height", "width", "level")
def pool(
    x,
    rois,
    levels,
    out,
    height,
    width,
    level,
    scale,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HIGH: tl.constexpr,
    WIDE: tl.constexpr,
    BIN_ROWS: tl.constexpr,
    BIN_COLUMNS: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """``out`` (K, HIGH, WIDE, CHANNELS), of the regions that lie in this level's map ``x``
    (B, height, width, CHANNELS).

    ``rois`` are (K, 5), float32: image and x1, y1, x2, y2. The grid is regions, groups of
    BIN_ROWS rows of bins, and blocks of channels. BIN_COLUMNS is a power of two from WIDE.
    """
    region = tl.program_id(0).to(tl.int64)
    if tl.load(levels + region) != level:
        return
    image = tl.load(rois + 5 * region).to(tl.int64)
    left, wide = _side(
        tl.load(rois + 5 * region + 1), tl.load(rois + 5 * region + 3), scale, ALIGNED
    )
    top, high = _side(
        tl.load(rois + 5 * region + 2), tl.load(rois + 5 * region + 4), scale, ALIGNED
    )
    samples_down, samples_across = _samples(high, HIGH, RATIO), _samples(wide, WIDE, RATIO)
    row = tl.program_id(1) * BIN_ROWS + tl.arange(0, BIN_ROWS)
    column = tl.arange(0, BIN_COLUMNS)
    channel = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    eight, pixel = tl.arange(0, 8), tl.arange(0, 64)
    begin = top + tl.program_id(1) * BIN_ROWS * (high / HIGH)
    first_line, last_line = _reach(begin, BIN_ROWS * (high / HIGH), height)
    first_place, last_place = _reach(left, wide, width)
    x += image * height * width * CHANNELS
    total = tl.zeros([BIN_ROWS * BIN_COLUMNS, COLUMNS], tl.float32)
    for line in range(first_line, last_line + 1, 8):
        down = _parts(top, high, samples_down, row[:, None], line + eight[None, :], height, HIGH)
        for place in range(first_place, last_place + 1, 8):
            across = _parts(
                left, wide, samples_across, column[:, None], place + eight[None, :], width, WIDE
            )
            parts = down[:, None, :, None] * across[None, :, None, :]
            parts = tl.reshape(parts, [BIN_ROWS * BIN_COLUMNS, 64])
            at_line, at_place = line + pixel // 8, place + pixel % 8
            known = (at_line < height) & (at_place < width)
            source = x + (at_line * width + at_place)[:, None] * CHANNELS + channel[None, :]
            values = tl.load(source, mask=known[:, None] & (channel < CHANNELS)[None, :], other=0.0)
            total += _multiply(parts, values, EXACT)
    number = tl.arange(0, BIN_ROWS * BIN_COLUMNS)
    bin_row = tl.program_id(1) * BIN_ROWS + number // BIN_COLUMNS
    bin_column = number % BIN_COLUMNS
    known = (bin_row < HIGH) & (bin_column < WIDE)
    target = (region * HIGH + bin_row) * WIDE + bin_column
    target = out + target[:, None] * CHANNELS + channel[None, :]
    tl.store(target, total, mask=known[:, None] & (channel < CHANNELS)[None, :])


@kernel("height", "width", "level", "batch")
def pool_backward(
    grad_out,
    rois,
    order,
    first,
    grad_x,
    height,
    width,
    level,
    batch,
    scale,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HIGH: tl.constexpr,
    WIDE: tl.constexpr,
    BIN_ROWS: tl.constexpr,
    BIN_COLUMNS: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """``grad_x`` (B, height, width, CHANNELS): each tile of pixels sums what its regions give it.

    ``order`` (K,) sorts regions by level and image, ``first`` (levels B + 1,) is where these begin.
    The grid is tiles of 8x8 pixels, blocks of channels, and images.
    """
    tiles = tl.cdiv(width, 8)
    line, place = tl.program_id(0) // tiles * 8, tl.program_id(0) % tiles * 8
    image = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    eight, lane, pixel = tl.arange(0, 8), tl.arange(0, 64), tl.arange(0, 64)
    number = tl.arange(0, BIN_ROWS * BIN_COLUMNS)
    begin = tl.load(first + level * batch + image)
    end = tl.load(first + level * batch + image + 1)
    total = tl.zeros([64, COLUMNS], tl.float32)
    for start in range(begin, end, 64):
        known = start + lane < end
        region = tl.load(order + start + lane, mask=known, other=0)
        box = rois + 5 * region
        left, wide = _side(tl.load(box + 1), tl.load(box + 3), scale, ALIGNED)
        top, high = _side(tl.load(box + 2), tl.load(box + 4), scale, ALIGNED)
        first_line, last_line = _reach(top, high, height)
        first_place, last_place = _reach(left, wide, width)
        known = known & (last_line >= line) & (first_line < line + 8)
        known = known & (last_place >= place) & (first_place < place + 8)
        waiting = tl.where(known, lane, 64)
        chosen = tl.min(waiting, 0)
        while chosen < 64:
            region_1 = tl.load(order + start + chosen)
            one = rois + 5 * region_1
            left_1, wide_1 = _side(tl.load(one + 1), tl.load(one + 3), scale, ALIGNED)
            top_1, high_1 = _side(tl.load(one + 2), tl.load(one + 4), scale, ALIGNED)
            across = _parts(
                left_1, wide_1, _samples(wide_1, WIDE, RATIO),
                tl.arange(0, BIN_COLUMNS)[None, :], place + eight[:, None], width, WIDE,
            )  # fmt: skip
            for bins in range(0, HIGH, BIN_ROWS):
                down = _parts(
                    top_1, high_1, _samples(high_1, HIGH, RATIO),
                    bins + tl.arange(0, BIN_ROWS)[None, :], line + eight[:, None], height, HIGH,
                )  # fmt: skip
                parts = down[:, None, :, None] * across[None, :, None, :]
                parts = tl.reshape(parts, [64, BIN_ROWS * BIN_COLUMNS])
                bin_row, bin_column = bins + number // BIN_COLUMNS, number % BIN_COLUMNS
                there = (bin_row < HIGH) & (bin_column < WIDE)
                source = (region_1 * HIGH + bin_row) * WIDE + bin_column
                source = grad_out + source[:, None] * CHANNELS + channel[None, :]
                mask = there[:, None] & (channel < CHANNELS)[None, :]
                total += _multiply(parts, tl.load(source, mask=mask, other=0.0), EXACT)
            waiting = tl.where(lane == chosen, 64, waiting)
            chosen = tl.min(waiting, 0)
    at_line, at_place = line + pixel // 8, place + pixel % 8
    known = (at_line < height) & (at_place < width)
    target = (image * height + at_line) * width + at_place
    target = grad_x + target[:, None] * CHANNELS + channel[None, :]
    tl.store(target, total, mask=known[:, None] & (channel < CHANNELS)[None, :])
