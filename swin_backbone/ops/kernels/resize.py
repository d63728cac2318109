"""Bilinear resizing of maps as Triton kernels, forward and, gathering, backward.

Maps are (B, C, h, w), contiguous, or with ``LAST`` channels-last. A block is CHANNELS channels by
PIXELS pixels, that way round or, with ``LAST``, the other, so that what lies side by side in memory
does so in a block. Tables are those of :class:`swin_backbone.ops.resampling.Axis`.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _by_pixel(x, LAST: tl.constexpr):
    """What belongs to a block's pixels, along them."""
    return x[:, None] if LAST else x[None, :]


@triton.jit
def _block(maps, pixels, channels, CHANNELS: tl.constexpr, LAST: tl.constexpr):
    """Where a block's channels begin in ``maps`` of ``pixels`` pixels, and which there are."""
    image = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channel < channels
    maps += image * channels * pixels
    if LAST:
        at, known = maps + channel[None, :], there[None, :]
    else:
        at, known = maps + (channel.to(tl.int64) * pixels)[:, None], there[:, None]
    return at, known


@kernel("channels", "height", "width", "low_height", "low_width")
def resize_forward(
    x,
    row_lower,
    row_weight,
    column_lower,
    column_weight,
    out,
    channels,
    height,
    width,
    low_height,
    low_width,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    LAST: tl.constexpr,
):
    """``out`` (B, channels, height, width). The grid is blocks of pixels, of channels, images."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    pixels, low_pixels = height * width, low_height * low_width
    live = pixel < pixels
    pitch = channels.to(tl.int64) if LAST else 1
    row, column = pixel // width, pixel % width
    left = tl.load(column_lower + column, mask=live, other=0)
    across = _by_pixel(tl.load(column_weight + column, mask=live, other=0.0), LAST)
    top = tl.load(row_lower + row, mask=live, other=0)
    down = _by_pixel(tl.load(row_weight + row, mask=live, other=0.0), LAST)
    right = _by_pixel(tl.where(left + 1 < low_width, pitch, 0), LAST)
    below = _by_pixel(tl.where(top + 1 < low_height, low_width * pitch, 0), LAST)
    source, known = _block(x, low_pixels, channels, CHANNELS, LAST)
    source += _by_pixel((top * low_width + left) * pitch, LAST)
    known = known & _by_pixel(live, LAST)
    upper = tl.load(source, mask=known, other=0.0).to(tl.float32)
    upper_next = tl.load(source + right, mask=known, other=0.0).to(tl.float32)
    lower = tl.load(source + below, mask=known, other=0.0).to(tl.float32)
    lower_next = tl.load(source + below + right, mask=known, other=0.0).to(tl.float32)
    upper += across * (upper_next - upper)
    lower += across * (lower_next - lower)
    target, _ = _block(out, pixels, channels, CHANNELS, LAST)
    tl.store(target + _by_pixel(pixel * pitch, LAST), upper + down * (lower - upper), mask=known)


@triton.jit
def _part(lower, weights, position, sample, known):
    """What ``sample`` is of the values at ``position``."""
    weight = tl.load(weights + position, mask=known, other=0.0)
    is_lower = tl.load(lower + position, mask=known, other=0) == sample
    return tl.where(known, tl.where(is_lower, 1.0 - weight, weight), 0.0)


@kernel(
    "channels", "height", "width", "low_height", "low_width", "row_reach", "column_reach"
)  # fmt: skip
def resize_backward(
    grad_out,
    row_first,
    row_lower,
    row_weight,
    column_first,
    column_lower,
    column_weight,
    grad_x,
    channels,
    height,
    width,
    low_height,
    low_width,
    row_reach,
    column_reach,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    LAST: tl.constexpr,
):
    """``grad_x`` (B, channels, low_height, low_width): sums of what pixels give their samples.

    The grid is as of :func:`resize_forward`, of samples. A sample is a part of at most
    ``row_reach`` rows and ``column_reach`` columns.
    """
    sample = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    pixels, samples = height * width, low_height * low_width
    live = sample < samples
    pitch = channels.to(tl.int64) if LAST else 1
    row, column = sample // low_width, sample % low_width
    first_row = tl.load(row_first + tl.maximum(row - 1, 0), mask=live, other=0)
    last_row = tl.load(row_first + row + 1, mask=live, other=0)
    first_column = tl.load(column_first + tl.maximum(column - 1, 0), mask=live, other=0)
    last_column = tl.load(column_first + column + 1, mask=live, other=0)
    source, known = _block(grad_out, pixels, channels, CHANNELS, LAST)
    if LAST:
        total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    else:
        total = tl.zeros([CHANNELS, PIXELS], tl.float32)
    for down in range(row_reach):
        y = first_row + down
        has_row = y < last_row
        of_row = _part(row_lower, row_weight, y, row, has_row)
        for across in range(column_reach):
            x = first_column + across
            has_both = has_row & (x < last_column)
            part = of_row * _part(column_lower, column_weight, x, column, has_both)
            at = source + _by_pixel((y * width + x) * pitch, LAST)
            grad = tl.load(at, mask=known & _by_pixel(has_both, LAST), other=0.0)
            total += _by_pixel(part, LAST) * grad.to(tl.float32)
    target, _ = _block(grad_x, samples, channels, CHANNELS, LAST)
    target += _by_pixel(sample * pitch, LAST)
    tl.store(target, total, mask=known & _by_pixel(live, LAST))
