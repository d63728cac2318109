"""Losses on scores that are interpolated where they are needed, as Triton kernels.

Scores are (B, K, h, w), contiguous, and a block of them is UNROLL classes by as many pixels as a
program has: the classes of a pixel lie in one thread, whose sums and maxima over them need no
exchange. Tables of both axes say which samples a pixel lies between
(:class:`swin_backbone.ops.resampling.Axis`). Exponentials are powers of two, of scores times
log2(e); what is kept of a pixel is the logarithm to base two of the sum over its classes.
"""

import triton
import triton.language as tl

from .jit import kernel

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _interpolate(corner, right, below, across, down, known):
    """Score between the samples at ``corner``, ``right`` beside it and ``below`` it.

    One order of operations, each rounded once, so that a score is the same wherever it is computed.
    """
    upper = tl.load(corner, mask=known, other=0.0).to(tl.float32)
    upper_next = tl.load(corner + right, mask=known, other=0.0).to(tl.float32)
    lower = tl.load(corner + below, mask=known, other=0.0).to(tl.float32)
    lower_next = tl.load(corner + below + right, mask=known, other=0.0).to(tl.float32)
    upper = tl.fma(across, upper_next - upper, upper)
    lower = tl.fma(across, lower_next - lower, lower)
    return tl.fma(down, lower - upper, upper)


@triton.jit
def _softplus(score):
    """log(1 + e^score), without overflow."""
    small = tl.exp2(-tl.abs(score) * _LOG2_E)
    return tl.maximum(score, 0.0) + _LN_2 * tl.log2(1.0 + small)


@triton.jit
def _read_label(labels, place, live, ignore_index, CLASSES: tl.constexpr, SIGMOID: tl.constexpr):
    """A pixel's label, whether it counts, and whether it then names a class."""
    label = tl.load(labels + place, mask=live, other=0).to(tl.int32)
    counted = live & (label != ignore_index)
    if SIGMOID:
        counted = counted & (label >= 0)
    LABELS: tl.constexpr = 2 if SIGMOID and CLASSES == 1 else CLASSES
    return label, counted, counted & (label >= 0) & (label < LABELS)


@kernel("pixels", "width", "low_height", "low_width", "ignore_index")
def loss_forward(
    logits,
    labels,
    class_weight,
    pixel_weight,
    row_lower,
    row_weight,
    column_lower,
    column_weight,
    kept,
    losses,
    shares,
    pixels,
    width,
    low_height,
    low_width,
    ignore_index,
    label_smoothing,
    CLASSES: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
    SIGMOID: tl.constexpr,
    SMOOTH: tl.constexpr,
    CLASS_WEIGHT: tl.constexpr,
    PIXEL_WEIGHT: tl.constexpr,
    EACH: tl.constexpr,
):
    """Losses of BLOCK pixels of an image, and their sums.

    The grid is blocks of pixels, then images. ``kept`` (B, pixels) is left for the backward pass,
    but with ``SIGMOID``; ``losses`` (B, pixels) is written with ``EACH``. ``shares`` (3, programs)
    gets each program's sum of losses, right pixels, and pixels that count (softmax with
    ``CLASS_WEIGHT``: of their labels' weights).
    """
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < pixels
    row = pixel // width
    column = pixel % width
    x = tl.load(column_lower + column, mask=live, other=0)
    across = tl.load(column_weight + column, mask=live, other=0.0)
    y = tl.load(row_lower + row, mask=live, other=0)
    down = tl.load(row_weight + row, mask=live, other=0.0)
    right = tl.where(x + 1 < low_width, 1, 0)
    below = tl.where(y + 1 < low_height, low_width, 0)
    plane = low_height * low_width
    corner = logits + image * (CLASSES * plane) + y * low_width + x
    place = image * pixels + pixel
    label, counted, known = _read_label(labels, place, live, ignore_index, CLASSES, SIGMOID)

    best = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    smooth = tl.zeros([BLOCK], tl.float32)
    all_weights = 0.0
    for start in range(0, CLASSES, UNROLL):
        k = start + tl.arange(0, UNROLL)
        there = (k < CLASSES)[:, None]
        score = _interpolate(
            corner[None, :] + (k * plane)[:, None], right[None, :], below[None, :],
            across[None, :], down[None, :], live[None, :] & there,
        )  # fmt: skip
        if SMOOTH:
            weight = tl.load(class_weight + k, mask=k < CLASSES, other=0.0).to(tl.float32)
            smooth += tl.sum(score * weight[:, None], 0)
            all_weights += tl.sum(weight, 0)
        score = tl.where(there, score, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 0))
        if SIGMOID:
            total += tl.sum(tl.where(there, _softplus(score), 0.0), 0)
        else:
            scaled = higher * _LOG2_E
            power = tl.exp2(score * _LOG2_E - scaled[None, :])
            total = total * tl.exp2(best * _LOG2_E - scaled) + tl.sum(power, 0)
        best = higher

    own_class = tl.where(known & (label < CLASSES), label, 0)
    own = _interpolate(corner + own_class * plane, right, below, across, down, live)
    weight_of_own = tl.full([BLOCK], 1.0, tl.float32)
    if CLASS_WEIGHT:
        weight_of_own = tl.load(class_weight + own_class, mask=live, other=0.0).to(tl.float32)
    share = tl.where(counted, 1.0, 0.0)
    if SIGMOID:
        present = label == 1 if CLASSES == 1 else known
        plus = _softplus(own)
        loss = total + tl.where(present, weight_of_own * (plus - own) - plus, 0.0)
    else:
        if CLASS_WEIGHT:
            share = tl.where(known, weight_of_own, 0.0)
        tl.store(kept + place, best * _LOG2_E + tl.log2(total), mask=live)
        log_sum = best + _LN_2 * tl.log2(total)
        loss = weight_of_own * (log_sum - own)
        if SMOOTH:
            spread = label_smoothing / CLASSES
            loss = loss * (1.0 - label_smoothing) + spread * (all_weights * log_sum - smooth)
    if PIXEL_WEIGHT:
        loss = loss * tl.load(pixel_weight + place, mask=live, other=0.0).to(tl.float32)
    loss = tl.where(counted, tl.where(known, loss, float("nan")), 0.0)
    if EACH:
        tl.store(losses + place, loss, mask=live)
    is_right = known & (label < CLASSES) & (own >= best)
    programs = tl.num_programs(0) * tl.num_programs(1)
    mine = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(shares + mine, tl.sum(loss, 0))
    tl.store(shares + programs + mine, tl.sum(tl.where(is_right, 1.0, 0.0), 0))
    tl.store(shares + 2 * programs + mine, tl.sum(share, 0))


@kernel("programs")
def loss_finish(
    shares,
    loss,
    correct,
    scale,
    programs,
    divisor,
    per_pixel,
    BLOCK: tl.constexpr,
    BY_SHARE: tl.constexpr,
):
    """Sums of ``shares`` (3, programs), in one order: the loss, right pixels, and 1 / divisor.

    With ``BY_SHARE``, the divisor is the third sum times ``per_pixel``, plus ``divisor``.
    """
    lane = tl.arange(0, BLOCK)
    losses = tl.zeros([BLOCK], tl.float32)
    rights = tl.zeros([BLOCK], tl.int64)
    parts = tl.zeros([BLOCK], tl.float32)
    for start in range(0, programs, BLOCK):
        live = start + lane < programs
        at = shares + start + lane
        losses += tl.load(at, mask=live, other=0.0)
        rights += tl.load(at + programs, mask=live, other=0.0).to(tl.int64)
        parts += tl.load(at + 2 * programs, mask=live, other=0.0)
    by = divisor
    if BY_SHARE:
        by = tl.sum(parts, 0) * per_pixel + divisor
    tl.store(loss, tl.sum(losses, 0) / by)
    tl.store(correct, tl.sum(rights, 0))
    tl.store(scale, 1.0 / by)


@triton.jit
def _three(line, left, right, known):
    """Samples of a line: the one before, the one at hand, the one after."""
    before = tl.load(line - left, mask=known, other=0.0).to(tl.float32)
    here = tl.load(line, mask=known, other=0.0).to(tl.float32)
    after = tl.load(line + right, mask=known, other=0.0).to(tl.float32)
    return before, here, after


@kernel("height", "width", "low_height", "low_width", "ignore_index", "reach")
def loss_backward(
    grad_loss,
    scale,
    logits,
    labels,
    class_weight,
    pixel_weight,
    kept,
    row_first,
    row_weight,
    column_first,
    column_lower,
    column_weight,
    grad_logits,
    height,
    width,
    low_height,
    low_width,
    ignore_index,
    reach,
    label_smoothing,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
    SIGMOID: tl.constexpr,
    SMOOTH: tl.constexpr,
    CLASS_WEIGHT: tl.constexpr,
    PIXEL_WEIGHT: tl.constexpr,
    EACH: tl.constexpr,
):
    """Gradient of UNROLL classes' scores, for ROWS rows and BLOCK columns of an image.

    A program walks down the rows of pixels between two rows of samples, one such gap after the
    other, and adds what they give to the samples above and below. In a row each sample collects
    from the pixels around it, at most ``reach``; those to its left count for its left neighbour
    too, whose thread computes them once more. The grid is blocks of classes, then strips of rows
    times blocks of columns, then images. ``grad_loss`` is (B, height, width) with ``EACH``, else
    a number, and is then multiplied by ``scale``.
    """
    image = tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(low_width, BLOCK)
    first_row = tl.program_id(1) // blocks * ROWS
    column = tl.program_id(1) % blocks * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(0) * UNROLL + tl.arange(0, UNROLL)
    inside = column < low_width
    known = (k < CLASSES)[:, None] & inside[None, :]
    plane = low_height * low_width
    source = (image * CLASSES * plane) + (k * plane)[:, None] + column[None, :]
    left = tl.where(column > 0, 1, 0)[None, :]
    right = tl.where(column + 1 < low_width, 1, 0)[None, :]
    begin = tl.load(column_first + tl.maximum(column - 1, 0), mask=inside, other=0)
    end = tl.load(column_first + column + 1, mask=inside, other=0)
    place_of_image = image * height * width
    factor = 1.0
    if not EACH:
        factor = tl.load(grad_loss).to(tl.float32) * tl.load(scale)
    if SMOOTH or (SIGMOID and CLASS_WEIGHT):
        weight = tl.load(class_weight + k, mask=k < CLASSES, other=0.0).to(tl.float32)[:, None]
    if SMOOTH:
        all_weights = 0.0
        for start in range(0, CLASSES, BLOCK):
            lane = start + tl.arange(0, BLOCK)
            parts = tl.load(class_weight + lane, mask=lane < CLASSES, other=0.0)
            all_weights += tl.sum(parts.to(tl.float32), 0)

    above = tl.zeros([UNROLL, BLOCK], tl.float32)
    for gap in range(tl.maximum(first_row - 1, 0), tl.minimum(first_row + ROWS, low_height)):
        line = logits + source + gap * low_width
        top_before, top, top_after = _three(line, left, right, known)
        line += tl.where(gap + 1 < low_height, low_width, 0)
        low_before, low, low_after = _three(line, left, right, known)
        below = tl.zeros([UNROLL, BLOCK], tl.float32)
        for row in range(tl.load(row_first + gap), tl.load(row_first + gap + 1)):
            down = tl.load(row_weight + row)
            before = tl.fma(down, low_before - top_before, top_before)
            here = tl.fma(down, low - top, top)
            after = tl.fma(down, low_after - top_after, top_after)
            sums = tl.zeros([UNROLL, BLOCK], tl.float32)
            for step in range(reach):
                x = begin + step
                live = x < end
                across = tl.load(column_weight + x, mask=live, other=0.0)
                is_after = tl.load(column_lower + x, mask=live, other=0) == column
                part = tl.where(live, tl.where(is_after, 1.0 - across, across), 0.0)
                of_before = tl.where(is_after, 0.0, 1.0 - across)
                of_after = tl.where(is_after, across, 0.0)
                place = place_of_image + row * width + x
                label, _, is_class = _read_label(
                    labels, place, live, ignore_index, CLASSES, SIGMOID
                )
                grad = tl.where(is_class, part * factor, 0.0)
                if EACH:
                    grad *= tl.load(grad_loss + place, mask=live, other=0.0).to(tl.float32)
                if PIXEL_WEIGHT:
                    grad *= tl.load(pixel_weight + place, mask=live, other=0.0).to(tl.float32)
                if SIGMOID:
                    score = of_before[None, :] * before + part[None, :] * here
                    score += of_after[None, :] * after
                    chance = 1.0 / (1.0 + tl.exp2(-score * _LOG2_E))
                    present = label - 1 if CLASSES == 1 else label
                    others = chance - 1.0
                    if CLASS_WEIGHT:
                        others *= weight
                    slope = tl.where(k[:, None] == present[None, :], others, chance)
                    sums += grad[None, :] * slope
                else:
                    log_sum = tl.load(kept + place, mask=live, other=float("inf"))
                    exponent = (of_before * _LOG2_E)[None, :] * before - log_sum[None, :]
                    exponent += (part * _LOG2_E)[None, :] * here
                    exponent += (of_after * _LOG2_E)[None, :] * after
                    of_own = grad
                    if CLASS_WEIGHT:
                        safe = tl.where(is_class, label, 0)
                        of_own *= tl.load(class_weight + safe).to(tl.float32)
                    of_chance = of_own
                    if SMOOTH:
                        spread = grad * (label_smoothing / CLASSES)
                        of_own *= 1.0 - label_smoothing
                        of_chance = of_own + spread * all_weights
                        sums -= spread[None, :] * weight
                    sums += of_chance[None, :] * tl.exp2(exponent)
                    is_own = k[:, None] == label[None, :]
                    sums -= tl.where(is_own, of_own[None, :], 0.0)
            above += (1.0 - down) * sums
            below += down * sums
        if gap >= first_row:
            tl.store(grad_logits + source + gap * low_width, above, mask=known)
        above = below
