"""Linear layers whose norm and residual come behind them (residual post-norm, Swin V2).

Rows are tokens, in two parts where they are kept on chip, see :mod:`.linear_kernels`; functions get
the number of a row in its program's block, and addresses of the block. A branch ends with
``x + path_scale * norm(z)``, where ``z`` is its last linear layer's result.
"""

import triton
import triton.language as tl

from .jit import kernel
from .linear_kernels import _affine, _split_units
from .norm_kernels import _statistics


@kernel("rows")
def cast_linear(
    x,
    weight,
    bias,
    low,
    out,
    rows,
    C: tl.constexpr,
    N: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = x @ weight^T + bias``, of ``x`` in the weight's dtype; that is written if KEEP."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    element = weight.dtype.element_ty
    begin = tl.program_id(0).to(tl.int64) * ROWS * C
    local = tl.arange(0, ROWS)
    first, second = _load_rows(x + begin, local, inside, left, right, C, RIGHT)
    first, second = first.to(element), second.to(element)
    if KEEP:
        if tl.program_id(1) == 0:
            _store_rows(low + begin, first, second, local, inside, left, right, C, RIGHT)
    for start in range(0, SPAN, COLUMNS):
        column = tl.program_id(1) * SPAN + start + tl.arange(0, COLUMNS)
        known = column < N
        tile = tl.load(weight + column[None, :] * C + left[:, None], mask=known[None, :], other=0.0)
        result = tl.dot(first, tile, input_precision=PRECISION)
        if RIGHT > 0:
            tile = tl.load(
                weight + column[None, :] * C + right[:, None], mask=known[None, :], other=0.0
            )
            result = tl.dot(second, tile, result, input_precision=PRECISION)
        if HAS_BIAS:
            result += tl.load(bias + column, mask=known, other=0.0).to(tl.float32)[None, :]
        target = out + row.to(tl.int64)[:, None] * N + column[None, :]
        tl.store(target, result.to(out.dtype.element_ty), mask=inside[:, None] & known[None, :])


@triton.jit
def _load_part(x, row, inside, column, C: tl.constexpr):
    """Some columns of rows of (rows, C), as float32."""
    address = x + (row[:, None] * C + column[None, :])
    return tl.load(address, mask=inside[:, None], other=0.0).to(tl.float32)


@triton.jit
def _load_rows(x, row, inside, left, right, C: tl.constexpr, RIGHT: tl.constexpr):
    """Rows in two parts; the second repeats the first if there is none."""
    first = _load_part(x, row, inside, left, C)
    second = first
    if RIGHT > 0:
        second = _load_part(x, row, inside, right, C)
    return first, second


@triton.jit
def _store_rows(
    target, first, second, row, inside, left, right, C: tl.constexpr, RIGHT: tl.constexpr
):
    """Write rows of (rows, C), in two parts, in the dtype of ``target``."""
    element = target.dtype.element_ty
    place = row[:, None] * C
    tl.store(target + (place + left[None, :]), first.to(element), mask=inside[:, None])
    if RIGHT > 0:
        tl.store(target + (place + right[None, :]), second.to(element), mask=inside[:, None])


@triton.jit
def _multiply_rows(
    a, weight, bias, row, inside, left, right, C: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of ``a @ weight^T + bias``, whole, float32; C inputs and C outputs."""
    depth = tl.arange(0, DEPTH)
    source = a + (row[:, None] * C + depth[None, :])
    tile = weight + left[None, :] * C + depth[:, None]
    first = tl.zeros([ROWS, LEFT], tl.float32)
    second = first
    if RIGHT > 0:
        other = weight + right[None, :] * C + depth[:, None]
        second = tl.zeros([ROWS, RIGHT], tl.float32)
    for start in range(0, C, DEPTH):
        values = tl.load(source + start, mask=inside[:, None], other=0.0)
        first = tl.dot(values, tl.load(tile + start), first, input_precision=PRECISION)
        if RIGHT > 0:
            second = tl.dot(values, tl.load(other + start), second, input_precision=PRECISION)
    first += tl.load(bias + left).to(tl.float32)[None, :]
    if RIGHT > 0:
        second += tl.load(bias + right).to(tl.float32)[None, :]
    return first, second


@triton.jit
def _path_scales(
    path_scale, row, inside, rows_per_image, ROWS: tl.constexpr, HAS_PATH_SCALE: tl.constexpr
):
    """Drop path scale of each row, (ROWS, 1) float32."""
    factor = tl.full([ROWS], 1.0, tl.float32)
    if HAS_PATH_SCALE:
        factor = tl.load(path_scale + row // rows_per_image, mask=inside, other=0.0).to(tl.float32)
    return factor[:, None]


@triton.jit
def _finish_branch(
    first, second, gamma, beta, x, factor, out, row, inside, left, right, eps, C: tl.constexpr,
    RIGHT: tl.constexpr,
):  # fmt: skip
    """Write ``out = x + factor * norm(z)`` for whole rows of ``z``, in two parts."""
    first, second, _ = _split_units(first, second, eps, C, RIGHT)
    first = _affine(first, gamma, beta, left) * factor + _load_part(x, row, inside, left, C)
    if RIGHT > 0:
        second = _affine(second, gamma, beta, right) * factor
        second += _load_part(x, row, inside, right, C)
    _store_rows(out, first, second, row, inside, left, right, C, RIGHT)


@triton.jit
def _norm_gradient(unit, scaled, mean, along, rstd):
    """Gradient before a norm; ``mean`` and ``along`` are (ROWS,) sums over whole rows by C."""
    return (scaled - mean[:, None] - unit * along[:, None]) * rstd[:, None]


@triton.jit
def _sum_gradient(unit, gamma, grad_out, factor, partial, row, inside, column, C: tl.constexpr):
    """Sums over rows of the gradient behind the norm, which are written: the gradients of gamma and
    beta; and sums over columns of that before gamma, alone and with ``unit``."""
    gradient = _load_part(grad_out, row, inside, column, C) * factor
    tl.store(partial + column, tl.sum(gradient * unit, 0))
    tl.store(partial + C + column, tl.sum(gradient, 0))
    gradient *= tl.load(gamma + column).to(tl.float32)[None, :]
    return tl.sum(gradient, 1), tl.sum(gradient * unit, 1)


@triton.jit
def _gradient_part(
    unit, gamma, grad_out, factor, mean, along, rstd, partial, row, inside, column, C: tl.constexpr
):
    """Some columns of the gradient before the norm; their sums over rows are written."""
    gradient = _load_part(grad_out, row, inside, column, C) * factor
    gradient *= tl.load(gamma + column).to(tl.float32)[None, :]
    gradient = _norm_gradient(unit, gradient, mean, along, rstd)
    tl.store(partial + 2 * C + column, tl.sum(gradient, 0))
    return gradient


@triton.jit
def _branch_gradient(
    first, second, gamma, grad_out, factor, partial, row, inside, left, right, eps,
    C: tl.constexpr, RIGHT: tl.constexpr,
):  # fmt: skip
    """Gradient for ``z`` of :func:`_finish_branch`, whole rows in two parts, float32.

    Column sums of these rows are written to ``partial`` (3, C): the gradients of gamma, beta and of
    the bias that is part of ``z``. ``grad_out`` is read twice: kept between, it would take more
    registers than there are.
    """
    first, second, rstd = _split_units(first, second, eps, C, RIGHT)
    mean, along = _sum_gradient(first, gamma, grad_out, factor, partial, row, inside, left, C)
    if RIGHT > 0:
        total, total_along = _sum_gradient(
            second, gamma, grad_out, factor, partial, row, inside, right, C
        )
        mean += total
        along += total_along
    mean, along = mean / C, along / C
    first = _gradient_part(
        first, gamma, grad_out, factor, mean, along, rstd, partial, row, inside, left, C
    )
    if RIGHT > 0:
        second = _gradient_part(
            second, gamma, grad_out, factor, mean, along, rstd, partial, row, inside, right, C
        )
    return first, second


@kernel("rows", "rows_per_image")
def linear_norm_add(
    a,
    weight,
    bias,
    gamma,
    beta,
    x,
    path_scale,
    out,
    rows,
    rows_per_image,
    eps,
    C: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    HAS_PATH_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = x + path_scale[image] * norm(a @ weight^T + bias)``, rows (rows, C) on chip."""
    program = tl.program_id(0)
    begin = program.to(tl.int64) * ROWS * C
    row = tl.arange(0, ROWS)
    inside = program * ROWS + row < rows
    a += begin
    x += begin
    out += begin
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    first, second = _multiply_rows(
        a, weight, bias, row, inside, left, right, C, LEFT, RIGHT, ROWS, DEPTH, PRECISION
    )
    token = program * ROWS + row
    factor = _path_scales(path_scale, token, inside, rows_per_image, ROWS, HAS_PATH_SCALE)
    _finish_branch(
        first, second, gamma, beta, x, factor, out, row, inside, left, right, eps, C, RIGHT
    )


@kernel("rows", "rows_per_image")
def linear_norm_backward(
    a,
    weight,
    bias,
    gamma,
    path_scale,
    grad_out,
    grad_z,
    grad_a,
    partials,
    rows,
    rows_per_image,
    eps,
    C: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    HAS_PATH_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`linear_norm_add` for what stands before its norm, and for ``a``.

    The product is computed again. ``grad_z`` and ``grad_a`` (rows, C) are in the dtype of ``a``;
    ``partials`` (programs, 3, C) float32 are each program's partial sums of the gradients of gamma,
    beta and ``bias``.
    """
    program = tl.program_id(0)
    begin = program.to(tl.int64) * ROWS * C
    row = tl.arange(0, ROWS)
    inside = program * ROWS + row < rows
    a += begin
    grad_out += begin
    grad_z += begin
    grad_a += begin
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    first, second = _multiply_rows(
        a, weight, bias, row, inside, left, right, C, LEFT, RIGHT, ROWS, DEPTH, PRECISION
    )
    token = program * ROWS + row
    factor = _path_scales(path_scale, token, inside, rows_per_image, ROWS, HAS_PATH_SCALE)
    partial = partials + program.to(tl.int64) * 3 * C
    first, second = _branch_gradient(
        first, second, gamma, grad_out, factor, partial, row, inside, left, right, eps, C, RIGHT
    )
    element = weight.dtype.element_ty
    first, second = first.to(element), second.to(element)
    _store_rows(grad_z, first, second, row, inside, left, right, C, RIGHT)
    for start in range(0, C, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        tile = tl.load(weight + left[:, None] * C + column[None, :])
        result = tl.dot(first, tile, input_precision=PRECISION)
        if RIGHT > 0:
            tile = tl.load(weight + right[:, None] * C + column[None, :])
            result = tl.dot(second, tile, result, input_precision=PRECISION)
        target = grad_a + row[:, None] * C + column[None, :]
        tl.store(target, result.to(element), mask=inside[:, None])


@kernel("rows", "rows_per_image")
def norm_add(
    z,
    bias,
    gamma,
    beta,
    x,
    path_scale,
    out,
    rows,
    rows_per_image,
    eps,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_PATH_SCALE: tl.constexpr,
):
    """``out = x + path_scale[image] * norm(z + bias)`` for rows (rows, C) of any width."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    known = column < C
    inside = (row < rows)[:, None] & known[None, :]
    place = row.to(tl.int64)[:, None] * C + column[None, :]
    values = tl.load(z + place, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(bias + column, mask=known, other=0.0).to(tl.float32)[None, :]
    mean, rstd = _statistics(values, inside, eps, C)
    weight = tl.load(gamma + column, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(beta + column, mask=known, other=0.0).to(tl.float32)
    normed = (values - mean[:, None]) * rstd[:, None] * weight[None, :] + shift[None, :]
    normed *= _path_scales(path_scale, row, row < rows, rows_per_image, ROWS, HAS_PATH_SCALE)
    normed += tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, normed.to(out.dtype.element_ty), mask=inside)


@kernel("rows", "rows_per_image", "rows_per_program")
def norm_add_backward(
    z,
    bias,
    gamma,
    path_scale,
    grad_out,
    grad_z,
    partials,
    rows,
    rows_per_image,
    eps,
    rows_per_program,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_PATH_SCALE: tl.constexpr,
):
    """Gradient of :func:`norm_add` for ``z``, in its dtype; each program's partial sums of those of
    gamma, beta and ``bias``: ``partials`` (programs, 3, C) float32."""
    column = tl.arange(0, COLUMNS)
    known = column < C
    weight = tl.load(gamma + column, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=known, other=0.0).to(tl.float32)
    # Summed over rows at the end: across the threads of a program that costs too much each time.
    gamma_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    beta_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    bias_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    first = tl.program_id(0) * rows_per_program
    for start in range(first, tl.minimum(first + rows_per_program, rows), ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & known[None, :]
        place = row.to(tl.int64)[:, None] * C + column[None, :]
        values = tl.load(z + place, mask=inside, other=0.0).to(tl.float32) + shift[None, :]
        mean, rstd = _statistics(values, inside, eps, C)
        unit = tl.where(inside, (values - mean[:, None]) * rstd[:, None], 0.0)
        gradient = tl.load(grad_out + place, mask=inside, other=0.0).to(tl.float32)
        gradient *= _path_scales(path_scale, row, row < rows, rows_per_image, ROWS, HAS_PATH_SCALE)
        gamma_sum += gradient * unit
        beta_sum += gradient
        scaled = gradient * weight[None, :]
        average, along = tl.sum(scaled, 1) / C, tl.sum(scaled * unit, 1) / C
        result = tl.where(inside, _norm_gradient(unit, scaled, average, along, rstd), 0.0)
        bias_sum += result
        tl.store(grad_z + place, result.to(grad_z.dtype.element_ty), mask=inside)
    partial = partials + tl.program_id(0).to(tl.int64) * 3 * C + column
    tl.store(partial, tl.sum(gamma_sum, 0), mask=known)
    tl.store(partial + C, tl.sum(beta_sum, 0), mask=known)
    tl.store(partial + 2 * C, tl.sum(bias_sum, 0), mask=known)
