"""Class maps from scores that are interpolated where they are needed, as a Triton kernel."""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _across(line, samples, weights, column, positions, live, there, TAPS: tl.constexpr):
    """Scores of a row of samples, at the columns of pixels."""
    score = 0.0
    for tap in tl.static_range(TAPS):
        sample = tl.load(samples + tap * positions + column, mask=live, other=0)
        weight = tl.load(weights + tap * positions + column, mask=live, other=0.0)
        value = tl.load(line + sample[None, :], mask=live[None, :] & there, other=0.0)
        score += weight[None, :] * value.to(tl.float32)
    return score


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
    for start in range(0, CLASSES, UNROLL):
        k = start + tl.arange(0, UNROLL)
        there = (k < CLASSES)[:, None]
        score = tl.zeros([UNROLL, BLOCK], tl.float32)
        for tap in tl.static_range(ROW_TAPS):
            sample = tl.load(row_samples + tap * height + row, mask=live, other=0)
            weight = tl.load(row_weights + tap * height + row, mask=live, other=0.0)
            line = source + (k * plane)[:, None] + (sample * low_width)[None, :]
            score += weight[None, :] * _across(
                line, column_samples, column_weights, column, width, live, there, COLUMN_TAPS
            )
        score = tl.where(there, score, float("-inf"))
        highest = tl.max(score, 0)
        winner = tl.min(tl.where(score == highest[None, :], k[:, None], CLASSES - 1), 0)
        higher = highest > best
        best_class = tl.where(higher, winner, best_class)
        best = tl.where(higher, highest, best)
    place = image * height * width + pixel
    tl.store(classes + place, best_class.to(tl.int64), mask=live)
    if WITH_SCORES:
        tl.store(scores + place, best, mask=live)
