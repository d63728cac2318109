"""Linear layers with norm, activation and residual fused in, as Triton kernels.

Rows are tokens. Weights are (outputs, inputs), as ``nn.Linear`` keeps them. Where a token's
channels fit on chip, their number ``C`` is split into two powers of two, ``LEFT + RIGHT`` (96 =
64 + 32, 128 = 128 + 0), since blocks have sides that are powers of two.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _normal_tail(x):
    """P(X > |x|) of a standard normal variable, by one power of two.

    Its logarithm is smooth: a polynomial of degree 6 on [0, 6], fitted by weighted minimax, gives
    the tail with an absolute error of 4e-7, and gelu with one of 2.1e-7. Beyond 6 it is below 1e-9.
    """
    z = tl.minimum(tl.abs(x), 6.0)
    log2 = -0.0532050426 + z * (0.00795373913 + z * (-0.000732308281 + z * 2.90406848e-05))
    log2 = -0.999999097 + z * (-1.15114493 + z * (-0.458934869 + z * log2))
    return tl.exp2(log2)


@triton.jit
def _gelu(x):
    return tl.maximum(x, 0.0) - tl.abs(x) * _normal_tail(x)


@triton.jit
def _gelu_and_slope(x):
    tail = _normal_tail(x)
    cdf = tl.where(x >= 0, 1.0 - tail, tail)
    density = 0.3989422804014327 * tl.exp2(x * x * -0.7213475204444817)
    return x * cdf, cdf + x * density


@triton.jit
def _split_rows(x, row, inside, left, right, C: tl.constexpr, RIGHT: tl.constexpr):
    """Rows of (rows, C) as float32, in two parts; the second repeats the first if there is none."""
    start = x + row.to(tl.int64)[:, None] * C
    first = tl.load(start + left[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    second = first
    if RIGHT > 0:
        second = tl.load(start + right[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    return first, second


@triton.jit
def _split_units(first, second, eps, C: tl.constexpr, RIGHT: tl.constexpr):
    """Rows with mean 0 and variance 1, and 1 / their standard deviation."""
    total = tl.sum(first, 1)
    if RIGHT > 0:
        total += tl.sum(second, 1)
    mean = total / C
    first = first - mean[:, None]
    square = tl.sum(first * first, 1)
    if RIGHT > 0:
        second = second - mean[:, None]
        square += tl.sum(second * second, 1)
    rstd = 1.0 / tl.sqrt(square / C + eps)
    first = first * rstd[:, None]
    if RIGHT > 0:
        second = second * rstd[:, None]
    return first, second, rstd


@triton.jit
def _affine(unit, gamma, beta, column):
    weight = tl.load(gamma + column).to(tl.float32)
    shift = tl.load(beta + column).to(tl.float32)
    return unit * weight[None, :] + shift[None, :]


@triton.jit
def _normed_rows(
    x, row, inside, left, right, gamma, beta, eps, KIND: tl.constexpr, C: tl.constexpr,
    RIGHT: tl.constexpr,
):  # fmt: skip
    """Rows of ``norm(x)`` in the compute dtype, in two parts."""
    first, second = _split_rows(x, row, inside, left, right, C, RIGHT)
    first, second, _ = _split_units(first, second, eps, C, RIGHT)
    first = _affine(first, gamma, beta, left).to(KIND)
    if RIGHT > 0:
        second = _affine(second, gamma, beta, right).to(KIND)
    return first, second


@triton.jit
def norm_linear(
    x,
    gamma,
    beta,
    weight,
    bias,
    out,
    rows,
    eps,
    C: tl.constexpr,
    N: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = norm(x) @ weight^T + bias``: a program normalises its rows once, for SPAN outputs."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    first, second = _normed_rows(
        x, row, inside, left, right, gamma, beta, eps, weight.dtype.element_ty, C, RIGHT
    )
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
def _tile(rows, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """Blocks of rows and of columns that are this program's.

    ``GROUP`` blocks of rows share the blocks of weights that they read, through the L2 cache.
    """
    row_blocks = tl.cdiv(rows, ROWS)
    column_blocks: tl.constexpr = (N + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    group = program // (GROUP * column_blocks)
    size = tl.minimum(row_blocks - group * GROUP, GROUP)
    row_block = group * GROUP + program % (GROUP * column_blocks) % size
    return row_block, program % (GROUP * column_blocks) // size


@triton.jit
def _halves(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The left and the right half of the columns."""
    return tl.split(tl.permute(tl.reshape(x, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))


@triton.jit
def _finish_linear(
    result,
    bias,
    residual,
    path_scale,
    out,
    rows,
    rows_per_image,
    row_block,
    start,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    HAS_PATH_SCALE: tl.constexpr,
):
    """What follows the matmul; in ``PARTS`` of the columns, for which fewer registers suffice."""
    if PARTS > 1:
        first, second = _halves(result, ROWS, COLUMNS)
        _finish_linear(
            first, bias, residual, path_scale, out, rows, rows_per_image, row_block, start,
            N, ROWS, COLUMNS // 2, PARTS // 2, GELU, RESIDUAL, HAS_PATH_SCALE,
        )  # fmt: skip
        _finish_linear(
            second, bias, residual, path_scale, out, rows, rows_per_image, row_block,
            start + COLUMNS // 2, N, ROWS, COLUMNS // 2, PARTS // 2, GELU, RESIDUAL, HAS_PATH_SCALE,
        )  # fmt: skip
    else:
        row = row_block * ROWS + tl.arange(0, ROWS)
        column = start + tl.arange(0, COLUMNS)
        inside = row < rows
        mask = inside[:, None] & (column < N)[None, :]
        result += tl.load(bias + column, mask=column < N, other=0.0).to(tl.float32)[None, :]
        if GELU:
            result = _gelu(result)
        first = (row_block * ROWS).to(tl.int64) * N
        offset = tl.arange(0, ROWS)[:, None] * N + column[None, :]
        if RESIDUAL:
            if HAS_PATH_SCALE:
                factor = tl.load(path_scale + row // rows_per_image, mask=inside, other=0.0)
                result *= factor.to(tl.float32)[:, None]
            result += tl.load(residual + first + offset, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + first + offset, result.to(out.dtype.element_ty), mask=mask)


@kernel("rows_per_image")
def linear(
    a,
    weight,
    bias,
    residual,
    path_scale,
    out,
    rows,
    rows_per_image,
    K: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    HAS_PATH_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = residual + path_scale[image] * (a @ weight^T + bias)``; or, without a residual,
    ``gelu(a @ weight^T + bias)``.

    Addresses are that of a program's first row and offsets of 32 bits from it.
    """
    row_block, column_block = _tile(rows, N, ROWS, COLUMNS, GROUP)
    local = tl.arange(0, ROWS)
    inside = row_block * ROWS + local < rows
    column = column_block * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    a_tile = a + (row_block * ROWS).to(tl.int64) * K + (local[:, None] * K + depth[None, :])
    w_tile = weight + (column[None, :] * K + depth[:, None])
    result = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, K, DEPTH):
        deep = depth < K - start
        if K % DEPTH == 0:
            left = tl.load(a_tile + start, mask=inside[:, None], other=0.0)
        else:
            left = tl.load(a_tile + start, mask=inside[:, None] & deep[None, :], other=0.0)
        if K % DEPTH == 0 and N % COLUMNS == 0:
            right = tl.load(w_tile + start)
        else:
            right = tl.load(w_tile + start, mask=(column < N)[None, :] & deep[:, None], other=0.0)
        result = tl.dot(left, right, result, input_precision=PRECISION)
    _finish_linear(
        result, bias, residual, path_scale, out, rows, rows_per_image, row_block,
        column_block * COLUMNS, N, ROWS, COLUMNS, PARTS, GELU, RESIDUAL, HAS_PATH_SCALE,
    )  # fmt: skip


@triton.jit
def gelu_backward(
    a,
    up,
    up_bias,
    grad_out,
    down,
    activated,
    grad_hidden,
    grad_bias,
    rows,
    C: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What the MLP's backward pass needs of its hidden layer, recomputed.

    ``h = a @ up^T + up_bias``; ``activated = gelu(h)``; ``grad_hidden = (grad_out @ down) *
    gelu'(h)``; ``grad_bias`` (blocks of rows, N) float32 is each block's column sums of it. ``a``
    and ``grad_out`` are (rows, C), ``up`` (N, C), ``down`` (C, N).
    """
    row_blocks = tl.cdiv(rows, ROWS)
    column_blocks: tl.constexpr = N // COLUMNS
    program = tl.program_id(0)
    group = program // (GROUP * column_blocks)
    size = tl.minimum(row_blocks - group * GROUP, GROUP)
    row_block = group * GROUP + program % (GROUP * column_blocks) % size
    column_block = program % (GROUP * column_blocks) // size

    row = row_block * ROWS + tl.arange(0, ROWS)
    column = column_block * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    inside = row < rows
    offset = row.to(tl.int64)[:, None] * C + depth[None, :]
    hidden = tl.zeros([ROWS, COLUMNS], tl.float32)
    gradient = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, C, DEPTH):
        left = tl.load(a + offset + start, mask=inside[:, None], other=0.0)
        right = tl.load(up + column[None, :] * C + (start + depth)[:, None])
        hidden = tl.dot(left, right, hidden, input_precision=PRECISION)
        left = tl.load(grad_out + offset + start, mask=inside[:, None], other=0.0)
        right = tl.load(down + (start + depth)[:, None] * N + column[None, :])
        gradient = tl.dot(left, right, gradient, input_precision=PRECISION)
    hidden += tl.load(up_bias + column).to(tl.float32)[None, :]
    value, slope = _gelu_and_slope(hidden)
    gradient *= slope
    target = row.to(tl.int64)[:, None] * N + column[None, :]
    element = activated.dtype.element_ty
    tl.store(activated + target, value.to(element), mask=inside[:, None])
    tl.store(grad_hidden + target, gradient.to(element), mask=inside[:, None])
    tl.store(grad_bias + row_block.to(tl.int64) * N + column, tl.sum(gradient, 0))
