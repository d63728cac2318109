"""Bilinear resizing of maps as Triton kernels, forward and, gathering, backward.

Of maps that are contiguous (B, C, h, w), threads lie along pixels, and a program takes four
channels, whose pixels lie between the same samples. Of channels-last ones, threads lie along
channels, and a program walks over pixels. Tables are those of
:class:`swin_backbone.ops.geometry.resampling.Axis`.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _mix(first, second, part):
    """``part`` of the second and the rest of the first."""
    return first + part * (second - first)


@kernel("planes", "height", "width", "low_height", "low_width")
def resize_forward(
    x,
    row_lower,
    row_weight,
    column_lower,
    column_weight,
    out,
    planes,
    height,
    width,
    low_height,
    low_width,
    BLOCK: tl.constexpr,
):
    """``out`` (planes, height, width) of ``x`` (planes, low_height, low_width).

    The grid is blocks of pixels, then groups of four planes.
    """
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pixels = height * width
    live = pixel < pixels
    row, column = pixel // width, pixel % width
    left = tl.load(column_lower + column, mask=live, other=0)
    across = tl.load(column_weight + column, mask=live, other=0.0)
    top = tl.load(row_lower + row, mask=live, other=0)
    down = tl.load(row_weight + row, mask=live, other=0.0)
    beside = tl.where(left + 1 < low_width, 1, 0)
    below = tl.where(top + 1 < low_height, low_width, 0)
    corner = x + top * low_width + left
    for step in tl.static_range(4):
        plane = tl.program_id(1).to(tl.int64) * 4 + step
        known = live & (plane < planes)
        source = corner + plane * low_height * low_width
        upper = tl.load(source, mask=known, other=0.0).to(tl.float32)
        upper_next = tl.load(source + beside, mask=known, other=0.0).to(tl.float32)
        source += below
        lower = tl.load(source, mask=known, other=0.0).to(tl.float32)
        lower_next = tl.load(source + beside, mask=known, other=0.0).to(tl.float32)
        value = _mix(_mix(upper, upper_next, across), _mix(lower, lower_next, across), down)
        tl.store(out + plane * pixels + pixel, value, mask=known)


@triton.jit
def _part(lower, weights, position, sample, known):
    """What ``sample`` is of the values at ``position``."""
    weight = tl.load(weights + position, mask=known, other=0.0)
    is_lower = tl.load(lower + position, mask=known, other=0) == sample
    return tl.where(known, tl.where(is_lower, 1.0 - weight, weight), 0.0)


@kernel("planes", "height", "width", "low_height", "low_width", "row_reach", "column_reach")
def resize_backward(
    grad_out,
    row_first,
    row_lower,
    row_weight,
    column_first,
    column_lower,
    column_weight,
    grad_x,
    planes,
    height,
    width,
    low_height,
    low_width,
    row_reach,
    column_reach,
    BLOCK: tl.constexpr,
):
    """``grad_x`` (planes, low_height, low_width): what pixels give the samples they mix.

    The grid is blocks of samples, then groups of four planes. A sample is a part of at most
    ``row_reach`` rows and ``column_reach`` columns.
    """
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pixels, samples = (height * width).to(tl.int64), low_height * low_width
    live = sample < samples
    row, column = sample // low_width, sample % low_width
    first_row = tl.load(row_first + tl.maximum(row - 1, 0), mask=live, other=0)
    last_row = tl.load(row_first + row + 1, mask=live, other=0)
    first_column = tl.load(column_first + tl.maximum(column - 1, 0), mask=live, other=0)
    last_column = tl.load(column_first + column + 1, mask=live, other=0)
    plane = tl.program_id(1).to(tl.int64) * 4
    source = grad_out + plane * pixels
    has_1, has_2, has_3 = plane + 1 < planes, plane + 2 < planes, plane + 3 < planes
    total_0 = tl.zeros([BLOCK], tl.float32)
    total_1 = tl.zeros([BLOCK], tl.float32)
    total_2 = tl.zeros([BLOCK], tl.float32)
    total_3 = tl.zeros([BLOCK], tl.float32)
    for down in range(row_reach):
        y = first_row + down
        has_row = y < last_row
        of_row = _part(row_lower, row_weight, y, row, has_row)
        line = source + y * width
        for across in range(column_reach):
            x = first_column + across
            known = has_row & (x < last_column)
            part = of_row * _part(column_lower, column_weight, x, column, known)
            at = line + x
            total_0 += part * tl.load(at, mask=known, other=0.0)
            total_1 += part * tl.load(at + pixels, mask=known & has_1, other=0.0)
            total_2 += part * tl.load(at + 2 * pixels, mask=known & has_2, other=0.0)
            total_3 += part * tl.load(at + 3 * pixels, mask=known & has_3, other=0.0)
    target = grad_x + plane * samples + sample
    tl.store(target, total_0, mask=live)
    tl.store(target + samples, total_1, mask=live & has_1)
    tl.store(target + 2 * samples, total_2, mask=live & has_2)
    tl.store(target + 3 * samples, total_3, mask=live & has_3)


@kernel("height", "width", "low_height", "low_width")
def resize_forward_last(
    x,
    row_first,
    row_weight,
    column_first,
    column_weight,
    base,
    out,
    height,
    width,
    low_height,
    low_width,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PITCH: tl.constexpr,
    ADD: tl.constexpr,
):
    """``out`` (B, height, width, CHANNELS) of ``x`` (B, low_height, low_width, CHANNELS). Pixels of
    ``out`` are PITCH elements apart. With ADD, ``base``, which lies as ``out``, is added.

    The grid is samples, each with the pixels between it and its next ones, then blocks of
    channels, then images.
    """
    image = tl.program_id(2).to(tl.int64)
    gap, column = tl.program_id(0) // low_width, tl.program_id(0) % low_width
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = channel < CHANNELS
    source = x + (image * low_height * low_width + tl.program_id(0)) * CHANNELS + channel
    beside = tl.where(column + 1 < low_width, CHANNELS, 0)
    upper = tl.load(source, mask=known, other=0.0).to(tl.float32)
    upper_next = tl.load(source + beside, mask=known, other=0.0).to(tl.float32)
    source += tl.where(gap + 1 < low_height, low_width, 0) * CHANNELS
    lower = tl.load(source, mask=known, other=0.0).to(tl.float32)
    lower_next = tl.load(source + beside, mask=known, other=0.0).to(tl.float32)
    begin, end = tl.load(column_first + column), tl.load(column_first + column + 1)
    for row in range(tl.load(row_first + gap), tl.load(row_first + gap + 1)):
        down = tl.load(row_weight + row)
        here, after = _mix(upper, lower, down), _mix(upper_next, lower_next, down)
        line = (image * height + row) * width * PITCH + channel
        for place in range(begin, end):
            value = _mix(here, after, tl.load(column_weight + place))
            at = line + place * PITCH
            if ADD:
                value += tl.load(base + at, mask=known, other=0.0)
            tl.store(out + at, value, mask=known)


@kernel("height", "width", "low_height", "low_width", "rows_each")
def resize_backward_last(
    grad_out,
    row_first,
    row_weight,
    column_first,
    column_lower,
    column_weight,
    grad_x,
    height,
    width,
    low_height,
    low_width,
    rows_each,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PITCH: tl.constexpr,
):
    """``grad_x`` (B, low_height, low_width, CHANNELS), of ``rows_each`` samples of a column.

    Pixels of ``grad_out`` are PITCH elements apart. A program walks down the rows of pixels between
    two rows of samples, one such gap after the other, and adds what they give to the samples above
    and below. The grid is columns times strips of rows, then blocks of channels, then images.
    """
    image = tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) % low_width
    first_row = tl.program_id(0) // low_width * rows_each
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = channel < CHANNELS
    begin = tl.load(column_first + tl.maximum(column - 1, 0))
    end = tl.load(column_first + column + 1)
    above = tl.zeros([BLOCK], tl.float32)
    for gap in range(tl.maximum(first_row - 1, 0), tl.minimum(first_row + rows_each, low_height)):
        below = tl.zeros([BLOCK], tl.float32)
        for row in range(tl.load(row_first + gap), tl.load(row_first + gap + 1)):
            line = grad_out + (image * height + row) * width * PITCH + channel
            sums = tl.zeros([BLOCK], tl.float32)
            for place in range(begin, end):
                part = _part(column_lower, column_weight, place, column, True)
                at = line + place * PITCH
                sums += part * tl.load(at, mask=known, other=0.0)
            down = tl.load(row_weight + row)
            above += (1.0 - down) * sums
            below += down * sums
        if gap >= first_row:
            place = (image * low_height + gap) * low_width + column
            tl.store(grad_x + place * CHANNELS + channel, above, mask=known)
        above = below
