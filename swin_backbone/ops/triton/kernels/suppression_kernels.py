"""Non-maximum suppression as Triton kernels: which boxes overlap, by the whole card, and a sweep.

Boxes come best first, in blocks of 64, and a word of 64 bits says which boxes of a block a box
overlaps. The sweep decides a block at once and then crosses out what the block's boxes overlap.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _or(first, second):
    return first | second


@triton.jit
def _sides(boxes, number, count):
    known = number < count
    left = tl.load(boxes + 4 * number, mask=known, other=0.0)
    top = tl.load(boxes + 4 * number + 1, mask=known, other=0.0)
    right = tl.load(boxes + 4 * number + 2, mask=known, other=0.0)
    bottom = tl.load(boxes + 4 * number + 3, mask=known, other=0.0)
    return left, top, right, bottom


@kernel("count", "words")
def overlapping(boxes, rows, columns, count, words, threshold):
    """``rows`` (64 words, words) int64: bit j of word w is whether a box overlaps a worse one, box
    64 w + j, by more than ``threshold``. ``columns`` (64 words,): which better ones of its own
    block a box is overlapped by. Words before a box's own are not written.

    ``boxes`` are (count, 4), best first. The grid is words, image by image, then blocks of boxes;
    what belongs to the next image follows.
    """
    place, block = tl.program_id(0), tl.program_id(1)
    image, word = (place // words).to(tl.int64), place % words
    if word < block:
        return
    boxes += image * count * 4
    rows += image * 64 * words * words
    columns += image * 64 * words
    lane = tl.arange(0, 64)
    first, second = block * 64 + lane, word * 64 + lane
    left, top, right, bottom = _sides(boxes, first, count)
    left_2, top_2, right_2, bottom_2 = _sides(boxes, second, count)
    wide = tl.minimum(right[:, None], right_2[None, :]) - tl.maximum(left[:, None], left_2[None, :])
    high = tl.minimum(bottom[:, None], bottom_2[None, :]) - tl.maximum(top[:, None], top_2[None, :])
    common = tl.maximum(wide, 0.0) * tl.maximum(high, 0.0)
    area, area_2 = (right - left) * (bottom - top), (right_2 - left_2) * (bottom_2 - top_2)
    # Rounded as in C++: thresholds are met exactly by boxes of whole pixels.
    over = tl.div_rn(common, area[:, None] + area_2[None, :] - common) > threshold
    over = over & (first[:, None] < second[None, :]) & (second < count)[None, :]
    bit = tl.full([64], 1, tl.int64) << lane.to(tl.int64)
    tl.store(rows + first.to(tl.int64) * words + word, tl.sum(tl.where(over, bit[None, :], 0), 1))
    if word == block:
        tl.store(columns + first, tl.sum(tl.where(over, bit[:, None], 0), 0))


@kernel("count", "words")
def sweep(rows, columns, kept, count, words, WORDS: tl.constexpr, ROWS: tl.constexpr):
    """``kept`` (words,) int64: which boxes no kept better one overlaps. One program an image.

    WORDS is a power of two from ``words``.
    """
    image = tl.program_id(0).to(tl.int64)
    rows += image * 64 * words * words
    columns += image * 64 * words
    kept += image * words
    lane = tl.arange(0, 64)
    bit = tl.full([64], 1, tl.int64) << lane.to(tl.int64)
    number = tl.arange(0, WORDS)
    gone = tl.zeros([WORDS], tl.int64)
    for block in range(words):
        column = tl.load(columns + block * 64 + lane)
        there = tl.sum(tl.where(block * 64 + lane < count, bit, 0), 0)
        alive = there & ~tl.sum(tl.where(number == block, gone, 0), 0)
        # A box stays unless a better one does that overlaps it. From any guess, the first box is
        # right after one round, and each round settles the next ones.
        stays, before = alive, ~alive
        while stays != before:
            before = stays
            stays = alive & tl.sum(tl.where((column & before) == 0, bit, 0), 0)
        tl.store(kept + block, stays)
        later = (number > block) & (number < words)
        for first in range(0, 64, ROWS):
            row = first + tl.arange(0, ROWS)
            of_row = rows + (block * 64 + row).to(tl.int64)[:, None] * words + number[None, :]
            taken = (stays >> row.to(tl.int64)) & 1
            found = tl.load(of_row, mask=(taken != 0)[:, None] & later[None, :], other=0)
            gone |= tl.reduce(found, 0, _or)
