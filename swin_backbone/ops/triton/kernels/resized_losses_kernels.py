"""Losses on scores that are interpolated where they are needed, as Triton kernels.

Scores are (B, K, h, w), contiguous. Threads lie along columns of samples, and a thread has UNROLL
classes of its column, whose sums and maxima need no exchange. It takes the pixels between its
column and the next; tables of both axes say which they are and what they mix
(:class:`swin_backbone.ops.geometry.resampling.Axis`). What a thread reads of a sample's neighbours
lies one element beside, a distance that the compiler knows: for others it may turn blocks the other
way. Exponentials are powers of two, of scores times log2(e); what is kept of a pixel is the
logarithm to base two of the sum over its classes.
"""

import triton
import triton.language as tl

from .jit import kernel

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _read(pointer, known):
    """Scores in float32."""
    return tl.load(pointer, mask=known, other=0.0).to(tl.float32)


@triton.jit
def _mix(first, second, part):
    """``part`` of the second and the rest of the first, rounded the same way wherever it is."""
    return tl.fma(part, second - first, first)


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


@triton.jit
def _fold(score, there, best, total, SIGMOID: tl.constexpr):
    """A chunk of a pixel's scores joins what is known of the others: the best of all, and the sum
    of their powers relative to it; with ``SIGMOID``, the sum of their losses if absent."""
    score = tl.where(there, score, float("-inf"))
    higher = tl.maximum(best, tl.max(score, 0))
    if SIGMOID:
        return higher, total + tl.sum(tl.where(there, _softplus(score), 0.0), 0)
    scaled = higher * _LOG2_E
    power = tl.sum(tl.exp2(score * _LOG2_E - scaled[None, :]), 0)
    return higher, total * tl.exp2(best * _LOG2_E - scaled) + power


@triton.jit
def _own_score(samples, beside, below, across, down, plane, own_class, live):
    """The score of each pixel's own class."""
    corner = samples + own_class * plane
    upper = _mix(_read(corner, live), _read(corner + beside, live), across)
    lower = _mix(_read(corner + below, live), _read(corner + below + beside, live), across)
    return _mix(upper, lower, down)


@triton.jit
def _end_pixel(
    samples, beside, below, across, down, plane, live, row, last_row, x, width, image_place, labels,
    class_weight, pixel_weight, kept, losses, ignore_index, label_smoothing, best, total, smooth,
    all_weights, CLASSES: tl.constexpr, SIGMOID: tl.constexpr, SMOOTH: tl.constexpr,
    CLASS_WEIGHT: tl.constexpr, PIXEL_WEIGHT: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Loss of a row's pixels, whether they are correct, and their weight in the divisor, from what
    all of their scores came to."""
    live = live & (row < last_row)
    place = image_place + row * width + x
    label, counted, known = _read_label(labels, place, live, ignore_index, CLASSES, SIGMOID)
    has_own = known & (label < CLASSES)
    own_class = tl.where(has_own, label, 0)
    own = _own_score(samples, beside, below, across, down, plane, own_class, live)
    divisor_weight = tl.where(counted, 1.0, 0.0)
    if CLASS_WEIGHT:
        weight = tl.load(class_weight + own_class, mask=live, other=0.0).to(tl.float32)
    if SIGMOID:
        present = label == 1 if CLASSES == 1 else known
        if_present = _softplus(own) - own
        if CLASS_WEIGHT:
            if_present *= weight
        loss = total + tl.where(present, if_present - _softplus(own), 0.0)
    else:
        power = tl.log2(total)
        tl.store(kept + place, best * _LOG2_E + power, mask=live)
        log_sum = best + _LN_2 * power
        loss = log_sum - own
        if CLASS_WEIGHT:
            loss *= weight
            divisor_weight = tl.where(known, weight, 0.0)
        if SMOOTH:
            spread = label_smoothing / CLASSES
            loss = loss * (1.0 - label_smoothing) + spread * (all_weights * log_sum - smooth)
    if PIXEL_WEIGHT:
        loss *= tl.load(pixel_weight + place, mask=live, other=0.0).to(tl.float32)
    loss = tl.where(counted, tl.where(known, loss, float("nan")), 0.0)
    if EACH:
        tl.store(losses + place, loss, mask=live)
    return loss, tl.where(has_own & (own >= best), 1.0, 0.0), divisor_weight


@kernel("height", "width", "low_height", "low_width", "ignore_index")
def loss_forward(
    logits,
    labels,
    class_weight,
    pixel_weight,
    row_first,
    row_weight,
    column_first,
    column_weight,
    kept,
    losses,
    partials,
    height,
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
    """Losses of the pixels between two rows of samples, and their sums.

    The grid is rows of samples times blocks of columns, then images. A thread takes four rows of
    pixels at once, which share what they mix. ``kept`` (B, height, width) is left for the backward
    pass, but with ``SIGMOID``; ``losses``, alike, is written with ``EACH``. ``partials`` (3,
    programs) gets each program's sum of losses, correct pixels, and pixels that count (softmax with
    ``CLASS_WEIGHT``: of their labels' weights).
    """
    image = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(low_width, BLOCK)
    gap = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = column < low_width
    has_next = (column + 1 < low_width)[None, :]
    plane = low_height * low_width
    below = tl.where(gap + 1 < low_height, low_width, 0)
    samples = logits + image * CLASSES * plane + gap * low_width + column
    beside = tl.where(column + 1 < low_width, 1, 0)
    image_place = image * height * width
    begin = tl.load(column_first + column, mask=inside, other=0)
    end = tl.load(column_first + column + 1, mask=inside, other=0)
    reach = tl.max(end - begin, 0)
    last_row = tl.load(row_first + gap + 1)
    loss_sum = tl.zeros([BLOCK], tl.float32)
    correct_sum = tl.zeros([BLOCK], tl.float32)
    weight_sum = tl.zeros([BLOCK], tl.float32)
    lowest = tl.full([BLOCK], float("-inf"), tl.float32)
    zeros = tl.zeros([BLOCK], tl.float32)
    for row in range(tl.load(row_first + gap), last_row, 4):
        down_0 = tl.load(row_weight + row)
        down_1 = tl.load(row_weight + tl.minimum(row + 1, height - 1))
        down_2 = tl.load(row_weight + tl.minimum(row + 2, height - 1))
        down_3 = tl.load(row_weight + tl.minimum(row + 3, height - 1))
        for step in range(reach):
            x = begin + step
            live = x < end
            across = tl.load(column_weight + x, mask=live, other=0.0)
            best_0, best_1, best_2, best_3 = lowest, lowest, lowest, lowest
            total_0, total_1, total_2, total_3 = zeros, zeros, zeros, zeros
            smooth_upper = zeros
            smooth_lower = zeros
            all_weights = 0.0
            for start in range(0, CLASSES, UNROLL):
                k = start + tl.arange(0, UNROLL)
                there = (k < CLASSES)[:, None]
                known = there & inside[None, :]
                corner = samples[None, :] + (k * plane)[:, None]
                upper, upper_next = _read(corner, known), _read(corner + 1, known & has_next)
                corner += below
                lower, lower_next = _read(corner, known), _read(corner + 1, known & has_next)
                upper = _mix(upper, upper_next, across[None, :])
                lower = _mix(lower, lower_next, across[None, :])
                if SMOOTH:
                    weight = tl.load(class_weight + k, mask=k < CLASSES, other=0.0).to(tl.float32)
                    smooth_upper += tl.sum(upper * weight[:, None], 0)
                    smooth_lower += tl.sum(lower * weight[:, None], 0)
                    all_weights += tl.sum(weight, 0)
                best_0, total_0 = _fold(_mix(upper, lower, down_0), there, best_0, total_0, SIGMOID)
                best_1, total_1 = _fold(_mix(upper, lower, down_1), there, best_1, total_1, SIGMOID)
                best_2, total_2 = _fold(_mix(upper, lower, down_2), there, best_2, total_2, SIGMOID)
                best_3, total_3 = _fold(_mix(upper, lower, down_3), there, best_3, total_3, SIGMOID)
            for part in tl.static_range(4):
                if part == 0:
                    down, best, total = down_0, best_0, total_0
                elif part == 1:
                    down, best, total = down_1, best_1, total_1
                elif part == 2:
                    down, best, total = down_2, best_2, total_2
                else:
                    down, best, total = down_3, best_3, total_3
                smooth = _mix(smooth_upper, smooth_lower, down)
                loss, is_correct, divisor_weight = _end_pixel(
                    samples, beside, below, across, down, plane, live, row + part, last_row, x,
                    width, image_place, labels, class_weight, pixel_weight, kept, losses,
                    ignore_index, label_smoothing, best, total, smooth, all_weights, CLASSES,
                    SIGMOID, SMOOTH, CLASS_WEIGHT, PIXEL_WEIGHT, EACH,
                )  # fmt: skip
                loss_sum += loss
                correct_sum += is_correct
                weight_sum += divisor_weight
    programs = tl.num_programs(0) * tl.num_programs(1)
    mine = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(partials + mine, tl.sum(loss_sum, 0))
    tl.store(partials + programs + mine, tl.sum(correct_sum, 0))
    tl.store(partials + 2 * programs + mine, tl.sum(weight_sum, 0))


@kernel("programs")
def loss_finish(
    partials,
    loss,
    correct,
    scale,
    programs,
    divisor,
    per_pixel,
    BLOCK: tl.constexpr,
    BY_WEIGHT: tl.constexpr,
):
    """Sums of ``partials`` (3, programs), in one order: the loss, correct pixels, and 1 / divisor.

    With ``BY_WEIGHT``, the divisor is the third sum times ``per_pixel``, plus ``divisor``.
    """
    lane = tl.arange(0, BLOCK)
    losses = tl.zeros([BLOCK], tl.float32)
    corrects = tl.zeros([BLOCK], tl.int64)
    parts = tl.zeros([BLOCK], tl.float32)
    for start in range(0, programs, BLOCK):
        live = start + lane < programs
        at = partials + start + lane
        losses += tl.load(at, mask=live, other=0.0)
        corrects += tl.load(at + programs, mask=live, other=0.0).to(tl.int64)
        parts += tl.load(at + 2 * programs, mask=live, other=0.0)
    by = divisor
    if BY_WEIGHT:
        by = tl.sum(parts, 0) * per_pixel + divisor
    tl.store(loss, tl.sum(losses, 0) / by)
    tl.store(correct, tl.sum(corrects, 0))
    tl.store(scale, 1.0 / by)


@triton.jit
def _three(line, known, has_before, has_after):
    """Samples of a line: the one before, the one at hand, the one after."""
    before, after = _read(line - 1, known & has_before), _read(line + 1, known & has_after)
    return before, _read(line, known), after


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
    has_before, has_after = (column > 0)[None, :], (column + 1 < low_width)[None, :]
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
        top_before, top, top_after = _three(line, known, has_before, has_after)
        line += tl.where(gap + 1 < low_height, low_width, 0)
        low_before, low, low_after = _three(line, known, has_before, has_after)
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
