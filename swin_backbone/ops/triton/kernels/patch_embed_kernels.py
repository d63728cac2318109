"""Patch embedding as Triton kernels: patches are read from the image, projected and normed on chip.

A block is of tokens side by side, so that where their pixels lie takes no division for each token.
A token's ``K`` pixels are those of its patch, channel by channel and row by row, as a convolution's
weight counts them. ``INPUTS`` > K is a power of two: input K is 1, so that the bias is a column of
the weight, and its gradient one of the weight's.
"""

import triton
import triton.language as tl

from .jit import kernel
from .norm_kernels import _statistics

#: Sizes of images, which change: no kernel is compiled for one of them.
SIZES = ("lines", "height", "width", "rows", "columns")


@triton.jit
def _tokens(block, lines, columns, ROWS: tl.constexpr):
    """The line of patches that a block lies in, its patches in that line, and which there are."""
    blocks_per_line = tl.cdiv(columns, ROWS)
    line = block // blocks_per_line
    x = block % blocks_per_line * ROWS + tl.arange(0, ROWS)
    return line, x, (x < columns) & (line < lines)


@triton.jit
def _pixels(
    image,
    line,
    x,
    inside,
    height,
    width,
    rows,
    K: tl.constexpr,
    INPUTS: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    """Pointers to the pixels of tokens in (B, channels, height, width), and which are on it."""
    number = tl.arange(0, INPUTS)
    channels: tl.constexpr = K // (PATCH_H * PATCH_W)
    y = line % rows * PATCH_H
    first = ((line // rows).to(tl.int64) * channels * height + y) * width
    x = x * PATCH_W
    down = number // PATCH_W % PATCH_H
    across = number % PATCH_W
    offset = (number // (PATCH_H * PATCH_W) * height + down) * width + across
    on_image = inside[:, None] & ((number < K) & (y + down < height))[None, :]
    on_image &= x[:, None] + across[None, :] < width
    return image + first + (x[:, None] + offset[None, :]), on_image


@triton.jit
def _offsets(line, x, column, columns, C: tl.constexpr):
    """Where channels of tokens lie in a map (lines, columns, C)."""
    return line.to(tl.int64) * columns * C + (x[:, None] * C + column[None, :])


@triton.jit
def _with_one(pixels, K: tl.constexpr, INPUTS: tl.constexpr):
    return tl.where((tl.arange(0, INPUTS) == K)[None, :], 1.0, pixels)


@triton.jit
def _weights(weight, bias, column, C: tl.constexpr, K: tl.constexpr, INPUTS: tl.constexpr):
    """(INPUTS, columns) of weight (C, K), and the bias (C,) as input K."""
    number = tl.arange(0, INPUTS)
    known = (column < C)[None, :]
    pointer = weight + column[None, :] * K + number[:, None]
    tile = tl.load(pointer, mask=known & (number < K)[:, None], other=0.0)
    shift = tl.load(bias + column, mask=column < C, other=0.0).to(weight.dtype.element_ty)
    return tl.where((number == K)[:, None], shift[None, :], tile)


@kernel(*SIZES)
def embed_forward(
    image,
    weight,
    bias,
    gamma,
    beta,
    out,
    lines,
    height,
    width,
    rows,
    columns,
    eps,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    K: tl.constexpr,
    INPUTS: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = norm(patches(image) @ weight^T + bias)``: (lines of patches, columns, C)."""
    line, x, known = _tokens(tl.program_id(0), lines, columns, ROWS)
    column = tl.arange(0, COLUMNS)
    pointer, on_image = _pixels(
        image, line, x, known, height, width, rows, K, INPUTS, PATCH_H, PATCH_W
    )
    pixels = _with_one(tl.load(pointer, mask=on_image, other=0.0), K, INPUTS)
    tile = _weights(weight, bias, column, C, K, INPUTS)
    result = tl.dot(pixels.to(weight.dtype.element_ty), tile, input_precision=PRECISION)
    inside = known[:, None] & (column < C)[None, :]
    mean, rstd = _statistics(result, inside, eps, C)
    scale = tl.load(gamma + column, mask=column < C, other=0.0).to(tl.float32)
    shift = tl.load(beta + column, mask=column < C, other=0.0).to(tl.float32)
    normed = (result - mean[:, None]) * rstd[:, None] * scale[None, :] + shift[None, :]
    target = out + _offsets(line, x, column, columns, C)
    tl.store(target, normed.to(out.dtype.element_ty), mask=inside)


@kernel(*SIZES, "blocks_per_program")
def embed_backward(
    image,
    weight,
    bias,
    gamma,
    grad_out,
    grad_image,
    partials,
    lines,
    height,
    width,
    rows,
    columns,
    blocks_per_program,
    eps,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    K: tl.constexpr,
    INPUTS: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    ROWS: tl.constexpr,
    GRAD_IMAGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`embed_forward`, whose projection is recomputed.

    ``partials`` (programs, C * K + 3 * C) float32 are each program's partial sums of the gradients
    of weight, bias, gamma and beta, one after the other.
    """
    element = weight.dtype.element_ty
    column = tl.arange(0, COLUMNS)
    number = tl.arange(0, INPUTS)
    tile = _weights(weight, bias, column, C, K, INPUTS)
    scale = tl.load(gamma + column, mask=column < C, other=0.0).to(tl.float32)
    gamma_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    beta_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    weight_sum = tl.zeros([COLUMNS, INPUTS], tl.float32)
    first = tl.program_id(0) * blocks_per_program
    for block in range(first, first + blocks_per_program):
        line, x, known = _tokens(block, lines, columns, ROWS)
        inside = known[:, None] & (column < C)[None, :]
        pointer, on_image = _pixels(
            image, line, x, known, height, width, rows, K, INPUTS, PATCH_H, PATCH_W
        )
        pixels = tl.load(pointer, mask=on_image, other=0.0)
        pixels = _with_one(pixels, K, INPUTS).to(element)
        result = tl.dot(pixels, tile, input_precision=PRECISION)
        mean, rstd = _statistics(result, inside, eps, C)
        unit = tl.where(inside, (result - mean[:, None]) * rstd[:, None], 0.0)
        given = grad_out + _offsets(line, x, column, columns, C)
        gradient = tl.load(given, mask=inside, other=0.0).to(tl.float32)
        gamma_sum += gradient * unit
        beta_sum += gradient
        scaled = gradient * scale[None, :]
        along = tl.sum(scaled * unit, 1) / C
        across = tl.sum(scaled, 1) / C
        projected = (scaled - across[:, None] - unit * along[:, None]) * rstd[:, None]
        projected = tl.where(inside, projected, 0.0).to(element)
        weight_sum = tl.dot(tl.trans(projected), pixels, weight_sum, input_precision=PRECISION)
        if GRAD_IMAGE:
            pixels_back = tl.dot(projected, tl.trans(tile), input_precision=PRECISION)
            target, _ = _pixels(
                grad_image, line, x, known, height, width, rows, K, INPUTS, PATCH_H, PATCH_W
            )
            tl.store(target, pixels_back.to(grad_image.dtype.element_ty), mask=on_image)
    partial = partials + tl.program_id(0).to(tl.int64) * (C * K + 3 * C)
    known = column < C
    place = column[:, None] * K + number[None, :]
    place = tl.where((number == K)[None, :], C * K + column[:, None], place)
    tl.store(partial + place, weight_sum, mask=known[:, None] & (number <= K)[None, :])
    tl.store(partial + C * K + C + column, tl.sum(gamma_sum, 0), mask=known)
    tl.store(partial + C * K + 2 * C + column, tl.sum(beta_sum, 0), mask=known)
