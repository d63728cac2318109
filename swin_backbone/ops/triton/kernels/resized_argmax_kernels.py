"""Class maps from scores that are interpolated where they are needed, as a Triton kernel."""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _score(
    source, row_samples, row_weights, column_samples, column_weights, row, column, height, width,
    low_width, live, ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr,
):  # fmt: skip
    """One class's scores of pixels; ``source`` is its plane."""
    score = 0.0
    for down in tl.static_range(ROW_TAPS):
        sample = tl.load(row_samples + down * height + row, mask=live, other=0)
        row_weight = tl.load(row_weights + down * height + row, mask=live, other=0.0)
        line = source + sample * low_width
        part = 0.0
        for across in tl.static_range(COLUMN_TAPS):
            beside = tl.load(column_samples + across * width + column, mask=live, other=0)
            column_weight = tl.load(column_weights + across * width + column, mask=live, other=0.0)
            part += column_weight * tl.load(line + beside, mask=live, other=0.0).to(tl.float32)
        score += row_weight * part
    return score


@triton.jit
def _plain_score(corner, beside, below, across, down, live):
    """One class's scores of pixels, each between four samples."""
    upper = tl.load(corner, mask=live, other=0.0).to(tl.float32)
    upper_next = tl.load(corner + beside, mask=live, other=0.0).to(tl.float32)
    lower = tl.load(corner + below, mask=live, other=0.0).to(tl.float32)
    lower_next = tl.load(corner + below + beside, mask=live, other=0.0).to(tl.float32)
    upper += across * (upper_next - upper)
    lower += across * (lower_next - lower)
    return upper + down * (lower - upper)


@kernel("height", "width", "low_height", "low_width")
def argmax(
    logits,
    row_samples,
    row_weights,
    column_samples,
    column_weights,
    classes,
    scores,
    height,
    width,
    low_height,
    low_width,
    CLASSES: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
    ROW_TAPS: tl.constexpr,
    COLUMN_TAPS: tl.constexpr,
    WITH_SCORES: tl.constexpr,
):
    """The best class, and its score, of BLOCK pixels of an image (height, width).

    The grid is blocks of pixels, then images. ``logits`` (B, CLASSES, low_height, low_width) is
    contiguous. Tables (taps, positions) say which samples a position mixes, and by which weights.
    Of equal scores the first class counts.
    """
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < height * width
    row, column = pixel // width, pixel % width
    plane = low_height * low_width
    source = logits + image * CLASSES * plane
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    best_class = tl.zeros([BLOCK], tl.int32)
    if ROW_TAPS + COLUMN_TAPS == 4:
        top = tl.load(row_samples + row, mask=live, other=0)
        left = tl.load(column_samples + column, mask=live, other=0)
        below = (tl.load(row_samples + height + row, mask=live, other=0) - top) * low_width
        beside = tl.load(column_samples + width + column, mask=live, other=0) - left
        down = tl.load(row_weights + height + row, mask=live, other=0.0)
        across = tl.load(column_weights + width + column, mask=live, other=0.0)
        corner = source + top * low_width + left
    for start in range(0, CLASSES, UNROLL):
        for step in tl.static_range(UNROLL):
            k = start + step
            known = live & (k < CLASSES)
            if ROW_TAPS + COLUMN_TAPS == 4:
                score = _plain_score(corner + k * plane, beside, below, across, down, known)
            else:
                score = _score(
                    source + k * plane, row_samples, row_weights, column_samples, column_weights,
                    row, column, height, width, low_width, known, ROW_TAPS, COLUMN_TAPS,
                )  # fmt: skip
            higher = (score > best) & (k < CLASSES)
            best_class = tl.where(higher, k, best_class)
            best = tl.where(higher, score, best)
    place = image * height * width + pixel
    tl.store(classes + place, best_class.to(tl.int64), mask=live)
    if WITH_SCORES:
        tl.store(scores + place, best, mask=live)
