"""A block's MLP with its hidden layer on chip, as Triton kernels: forward and backward.

Rows are tokens, whose channels fit on chip in two parts (see :mod:`.products`).
"""

import triton
import triton.language as tl

from .jit import kernel
from .linear_kernels import _affine, _gelu, _gelu_and_slope, _normed_rows, _split_rows, _split_units


@kernel("rows_per_image")
def mlp_forward(
    x,
    gamma,
    beta,
    up,
    up_bias,
    down,
    down_bias,
    path_scale,
    out,
    rows,
    rows_per_image,
    eps,
    C: tl.constexpr,
    N: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_PATH_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = x + path_scale[image] * (gelu(norm(x) @ up^T + up_bias) @ down^T + down_bias)``.

    The hidden layer stays on chip, ``COLUMNS`` of its N channels at a time.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    element = up.dtype.element_ty
    first, second = _normed_rows(x, row, inside, left, right, gamma, beta, eps, element, C, RIGHT)
    out_first = tl.zeros([ROWS, LEFT], tl.float32)
    if RIGHT > 0:
        out_second = tl.zeros([ROWS, RIGHT], tl.float32)
    for start in range(0, N, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        hidden = tl.dot(
            first, tl.load(up + column[None, :] * C + left[:, None]), input_precision=PRECISION
        )
        if RIGHT > 0:
            tile = tl.load(up + column[None, :] * C + right[:, None])
            hidden = tl.dot(second, tile, hidden, input_precision=PRECISION)
        hidden = _gelu(hidden + tl.load(up_bias + column).to(tl.float32)[None, :]).to(element)
        tile = tl.load(down + left[None, :] * N + column[:, None])
        out_first = tl.dot(hidden, tile, out_first, input_precision=PRECISION)
        if RIGHT > 0:
            tile = tl.load(down + right[None, :] * N + column[:, None])
            out_second = tl.dot(hidden, tile, out_second, input_precision=PRECISION)
    factor = tl.full([ROWS], 1.0, tl.float32)
    if HAS_PATH_SCALE:
        factor = tl.load(path_scale + row // rows_per_image, mask=inside, other=0.0).to(tl.float32)
    start = row.to(tl.int64)[:, None] * C
    out_first += tl.load(down_bias + left).to(tl.float32)[None, :]
    out_first = out_first * factor[:, None]
    out_first += tl.load(x + start + left[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(out + start + left[None, :], out_first.to(out.dtype.element_ty), mask=inside[:, None])
    if RIGHT > 0:
        out_second += tl.load(down_bias + right).to(tl.float32)[None, :]
        out_second = out_second * factor[:, None]
        out_second += tl.load(x + start + right[None, :], mask=inside[:, None], other=0.0).to(
            tl.float32
        )
        tl.store(
            out + start + right[None, :], out_second.to(out.dtype.element_ty), mask=inside[:, None]
        )


@triton.jit
def _row_sums(grad, unit, gamma, column):
    """``gamma * grad``, the sums over its rows, and those of its product with ``unit``."""
    grad *= tl.load(gamma + column).to(tl.float32)[None, :]
    return grad, tl.sum(grad, 1), tl.sum(grad * unit, 1)


@kernel("rows_per_image")
def mlp_backward(
    x,
    gamma,
    beta,
    up,
    up_bias,
    down,
    path_scale,
    grad_out,
    grad_x,
    unit,
    scaled,
    activated,
    grad_hidden,
    partials,
    rows,
    rows_per_image,
    eps,
    C: tl.constexpr,
    N: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_PATH_SCALE: tl.constexpr,
    WRITE_HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of :func:`mlp_forward` for ``x``, and what those of the parameters are made of.

    ``unit`` (rows, C) is the norm before gamma and beta; ``scaled`` (rows, C) is ``path_scale *
    grad_out``. With ``WRITE_HIDDEN`` eight columns of ``unit`` follow, ones and zeros, and
    ``activated`` and ``grad_hidden`` (rows, N) are the hidden layer behind gelu and the gradient
    before it. ``partials`` (programs, C) float32 is each program's partial sum of the gradient of
    ``down_bias``. For the other parameters see :func:`mlp_parameter_gradients`.
    """
    PITCH: tl.constexpr = C + 8 if WRITE_HIDDEN else C
    program = tl.program_id(0)
    begin = program.to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    image = (program * ROWS + row) // rows_per_image
    inside = program * ROWS + row < rows
    here = inside[:, None]
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    element = up.dtype.element_ty
    x += begin * C
    grad_out += begin * C
    grad_x += begin * C
    scaled += begin * C
    unit += begin * PITCH
    activated += begin * N
    grad_hidden += begin * N

    out_first, out_second = _split_rows(grad_out, row, inside, left, right, C, RIGHT)
    if HAS_PATH_SCALE:
        factor = tl.load(path_scale + image, mask=inside, other=0.0).to(tl.float32)[:, None]
        out_first *= factor
        out_second *= factor
    partial = partials + program.to(tl.int64) * C
    tl.store(partial + left, tl.sum(out_first, 0))
    out_first = out_first.to(element)
    tl.store(scaled + row[:, None] * C + left[None, :], out_first, mask=here)
    if RIGHT > 0:
        tl.store(partial + right, tl.sum(out_second, 0))
        out_second = out_second.to(element)
        tl.store(scaled + row[:, None] * C + right[None, :], out_second, mask=here)

    first, second = _split_rows(x, row, inside, left, right, C, RIGHT)
    first, second, rstd = _split_units(first, second, eps, C, RIGHT)
    unit_row = unit + row[:, None] * PITCH
    tl.store(unit_row + left[None, :], first.to(element), mask=here)
    first = _affine(first, gamma, beta, left).to(element)
    if WRITE_HIDDEN:
        extra = tl.arange(0, 8)[None, :]
        ones = tl.where(extra == 0, 1.0, 0.0) + tl.zeros([ROWS, 8], tl.float32)
        tl.store(unit_row + C + extra, ones.to(element), mask=here)
    grad_first = tl.zeros([ROWS, LEFT], tl.float32)
    grad_second = grad_first
    if RIGHT > 0:
        tl.store(unit_row + right[None, :], second.to(element), mask=here)
        second = _affine(second, gamma, beta, right).to(element)
        grad_second = tl.zeros([ROWS, RIGHT], tl.float32)

    for start in range(0, N, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        up_first = tl.load(up + column[:, None] * C + left[None, :])
        hidden = tl.dot(first, tl.trans(up_first), input_precision=PRECISION)
        tile = tl.load(down + left[:, None] * N + column[None, :])
        gradient = tl.dot(out_first, tile, input_precision=PRECISION)
        if RIGHT > 0:
            up_second = tl.load(up + column[:, None] * C + right[None, :])
            hidden = tl.dot(second, tl.trans(up_second), hidden, input_precision=PRECISION)
            tile = tl.load(down + right[:, None] * N + column[None, :])
            gradient = tl.dot(out_second, tile, gradient, input_precision=PRECISION)
        value, slope = _gelu_and_slope(hidden + tl.load(up_bias + column).to(tl.float32)[None, :])
        gradient = (gradient * slope).to(element)
        if WRITE_HIDDEN:
            target = row[:, None] * N + column[None, :]
            tl.store(activated + target, value.to(element), mask=here)
            tl.store(grad_hidden + target, gradient, mask=here)
        grad_first = tl.dot(gradient, up_first, grad_first, input_precision=PRECISION)
        if RIGHT > 0:
            grad_second = tl.dot(gradient, up_second, grad_second, input_precision=PRECISION)

    # Read again: kept through the loop, these would take the registers of another program. The
    # rows that this program has written are read by other threads than those that wrote them.
    tl.debug_barrier()
    first = tl.load(unit_row + left[None, :], mask=here, other=0.0).to(tl.float32)
    grad_first, mean, along = _row_sums(grad_first, first, gamma, left)
    if RIGHT > 0:
        second = tl.load(unit_row + right[None, :], mask=here, other=0.0).to(tl.float32)
        grad_second, total, total_along = _row_sums(grad_second, second, gamma, right)
        mean += total
        along += total_along
    mean, along = (mean / C)[:, None], (along / C)[:, None]
    result = (grad_first - mean - first * along) * rstd[:, None]
    offset = row[:, None] * C + left[None, :]
    result += tl.load(grad_out + offset, mask=here, other=0.0).to(tl.float32)
    tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask=here)
    if RIGHT > 0:
        result = (grad_second - mean - second * along) * rstd[:, None]
        offset = row[:, None] * C + right[None, :]
        result += tl.load(grad_out + offset, mask=here, other=0.0).to(tl.float32)
        tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask=here)


@triton.jit
def _weigh(up, gamma, beta, weighted, hidden, column, C: tl.constexpr):
    """Write rows of ``up`` for rows before gamma and beta; return what beta adds to the product."""
    rows_of_up = tl.load(up + hidden[:, None] * C + column[None, :])
    weight = rows_of_up.to(tl.float32)
    bias = tl.sum(weight * tl.load(beta + column).to(tl.float32)[None, :], 1)
    weight *= tl.load(gamma + column).to(tl.float32)[None, :]
    tl.store(weighted + hidden[:, None] * C + column[None, :], weight.to(rows_of_up.dtype))
    return bias


@triton.jit
def mlp_weight_gradients(
    unit,
    scaled,
    gamma,
    beta,
    up,
    up_bias,
    down,
    weighted,
    partials,
    rows,
    rows_per_program,
    C: tl.constexpr,
    N: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sums over rows that the weights' gradients are made of; the hidden layer is recomputed.

    A program takes ``UNITS`` of the N hidden channels and a part of the rows. ``partials``
    (parts, 2 C N + N) float32: ``grad_hidden^T @ unit`` (N, C); ``scaled^T @ activated`` (C, N),
    the gradient of ``down``; the sums of ``grad_hidden`` (N), the gradient of ``up_bias``.

    Hidden channels are the rows of every product's result, so that what gelu gives goes into the
    next product from the registers that it lies in. ``weighted`` (parts, N, C) is a place for
    ``gamma * up``: what is read from memory is multiplied from shared memory, without waiting for
    the product before; what has been computed would be multiplied from registers.
    """
    hidden = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    element = up.dtype.element_ty
    weighted += tl.program_id(1).to(tl.int64) * N * C
    bias = tl.load(up_bias + hidden).to(tl.float32)
    bias += _weigh(up, gamma, beta, weighted, hidden, left, C)
    down_first = tl.load(down + left[None, :] * N + hidden[:, None])
    up_sum_first = tl.zeros([UNITS, LEFT], tl.float32)
    down_sum_first = tl.zeros([UNITS, LEFT], tl.float32)
    bias_sum = tl.zeros([UNITS], tl.float32)
    if RIGHT > 0:
        bias += _weigh(up, gamma, beta, weighted, hidden, right, C)
        down_second = tl.load(down + right[None, :] * N + hidden[:, None])
        up_sum_second = tl.zeros([UNITS, RIGHT], tl.float32)
        down_sum_second = tl.zeros([UNITS, RIGHT], tl.float32)
    tl.debug_barrier()  # other threads read it than those that wrote it
    up_first = tl.load(weighted + hidden[:, None] * C + left[None, :])
    if RIGHT > 0:
        up_second = tl.load(weighted + hidden[:, None] * C + right[None, :])

    begin = tl.program_id(1) * rows_per_program
    for start in range(begin, tl.minimum(begin + rows_per_program, rows), ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None]
        offset = row.to(tl.int64)[:, None] * C
        unit_first = tl.load(unit + offset + left[None, :], mask=inside, other=0.0)
        value = tl.dot(up_first, tl.trans(unit_first), input_precision=PRECISION)
        scaled_first = tl.load(scaled + offset + left[None, :], mask=inside, other=0.0)
        gradient = tl.dot(down_first, tl.trans(scaled_first), input_precision=PRECISION)
        if RIGHT > 0:
            unit_second = tl.load(unit + offset + right[None, :], mask=inside, other=0.0)
            value = tl.dot(up_second, tl.trans(unit_second), value, input_precision=PRECISION)
            scaled_second = tl.load(scaled + offset + right[None, :], mask=inside, other=0.0)
            gradient = tl.dot(
                down_second, tl.trans(scaled_second), gradient, input_precision=PRECISION
            )
        value, slope = _gelu_and_slope(value + bias[:, None])
        gradient *= slope
        bias_sum += tl.sum(gradient, 1)
        gradient, value = gradient.to(element), value.to(element)
        up_sum_first = tl.dot(gradient, unit_first, up_sum_first, input_precision=PRECISION)
        down_sum_first = tl.dot(value, scaled_first, down_sum_first, input_precision=PRECISION)
        if RIGHT > 0:
            up_sum_second = tl.dot(gradient, unit_second, up_sum_second, input_precision=PRECISION)
            down_sum_second = tl.dot(
                value, scaled_second, down_sum_second, input_precision=PRECISION
            )

    partial = partials + tl.program_id(1).to(tl.int64) * (2 * C * N + N)
    tl.store(partial + hidden[:, None] * C + left[None, :], up_sum_first)
    tl.store(partial + C * N + left[None, :] * N + hidden[:, None], down_sum_first)
    tl.store(partial + 2 * C * N + hidden, bias_sum)
    if RIGHT > 0:
        tl.store(partial + hidden[:, None] * C + right[None, :], up_sum_second)
        tl.store(partial + C * N + right[None, :] * N + hidden[:, None], down_sum_second)


@kernel("programs")
def mlp_parameter_gradients(
    product,
    totals,
    up,
    gamma,
    beta,
    partials,
    grads,
    programs,
    C: tl.constexpr,
    N: tl.constexpr,
    PITCH: tl.constexpr,
    STEP: tl.constexpr,
    CHANNELS: tl.constexpr,
    UNITS: tl.constexpr,
    PARTIALS: tl.constexpr,
):
    """Gradients of the MLP's parameters, from sums over rows.

    ``grads`` float32 holds those of gamma, beta and ``down_bias`` (C), ``up_bias`` (N) and ``up``
    (N, C), one after the other.

    ``product`` (N, C), rows ``PITCH`` apart, is ``P = grad_hidden^T @ unit``; ``totals`` (N),
    ``STEP`` apart, are ``s``, the sums of ``grad_hidden``: the gradient of ``up_bias``. The up
    product's input is ``gamma * unit + beta``, so the gradient of ``up`` is ``P * gamma + s *
    beta``; what reaches the norm is ``grad_hidden @ up``, so its sum over rows, the gradient of
    beta, is ``up^T s``, and with ``unit`` in the sum, the gradient of gamma, the column sums of
    ``up * P``.
    """
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    grad_up_bias = grads + 3 * C
    grad_up = grad_up_bias + N
    if tl.program_id(1) == 0:
        weight = tl.load(gamma + channel).to(tl.float32)[None, :]
        shift = tl.load(beta + channel).to(tl.float32)[None, :]
        gamma_sum = tl.zeros([UNITS, CHANNELS], tl.float32)
        beta_sum = tl.zeros([UNITS, CHANNELS], tl.float32)
        for start in range(0, N, UNITS):
            hidden = start + tl.arange(0, UNITS)
            along = tl.load(product + hidden[:, None] * PITCH + channel[None, :])
            total = tl.load(totals + hidden * STEP)
            tl.store(grad_up_bias + hidden, total, mask=tl.program_id(0) == 0)
            target = hidden[:, None] * C + channel[None, :]
            tl.store(grad_up + target, along * weight + total[:, None] * shift)
            values = tl.load(up + target).to(tl.float32)
            gamma_sum += values * along
            beta_sum += values * total[:, None]
        tl.store(grads + channel, tl.sum(gamma_sum, 0))
        tl.store(grads + C + channel, tl.sum(beta_sum, 0))
    else:
        bias_sum = tl.zeros([PARTIALS, CHANNELS], tl.float32)
        for start in range(0, programs, PARTIALS):
            partial = start + tl.arange(0, PARTIALS)
            bias_sum += tl.load(
                partials + partial[:, None] * C + channel[None, :],
                mask=(partial < programs)[:, None],
                other=0.0,
            )
        tl.store(grads + 2 * C + channel, tl.sum(bias_sum, 0))
