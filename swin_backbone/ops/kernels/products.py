"""Matrix products with what stands before and behind them, as Triton kernels.

Rows are tokens. Weights are (outputs, inputs), as ``nn.Linear`` keeps them. Where a token's
channels fit on chip, their number ``C`` is split into two powers of two, ``LEFT + RIGHT`` (96 =
64 + 32, 128 = 128 + 0), since blocks have sides that are powers of two.
"""

import triton
import triton.language as tl


@triton.jit
def _normal_cdf(x):
    """Phi(x), and exp(-x^2 / 2), from one exponential.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error of erf| <= 1.5e-7.
    """
    z = tl.abs(x) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * z)
    bell = tl.exp(-z * z)
    series = 1.421413741 + t * (-1.453152027 + t * 1.061405429)
    series = t * (0.254829592 + t * (-0.284496736 + t * series))
    tail = 0.5 * series * bell
    return tl.where(x >= 0, 1.0 - tail, tail), bell


@triton.jit
def _gelu(x):
    cdf, _ = _normal_cdf(x)
    return x * cdf


@triton.jit
def _gelu_and_slope(x):
    cdf, bell = _normal_cdf(x)
    return x * cdf, cdf + x * bell * 0.3989422804014327


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
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = norm(x) @ weight^T + bias``: a program normalises its rows once, for all outputs."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    element = weight.dtype.element_ty
    first, second = _split_rows(x, row, inside, left, right, C, RIGHT)
    first, second, _ = _split_units(first, second, eps, C, RIGHT)
    first = _affine(first, gamma, beta, left).to(element)
    if RIGHT > 0:
        second = _affine(second, gamma, beta, right).to(element)
    for start in range(0, N, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
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
def linear(
    a,
    weight,
    bias,
    residual,
    keep,
    out,
    rows,
    rows_per_image,
    K: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    HAS_KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = residual + keep[image] * (a @ weight^T + bias)``, or ``gelu(a @ weight^T + bias)``.

    ``GROUP`` blocks of rows share the blocks of weights that they read, through the L2 cache.
    """
    row_blocks = tl.cdiv(rows, ROWS)
    column_blocks: tl.constexpr = (N + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    group = program // (GROUP * column_blocks)
    size = tl.minimum(row_blocks - group * GROUP, GROUP)
    row_block = group * GROUP + program % (GROUP * column_blocks) % size
    column_block = program % (GROUP * column_blocks) // size

    row = row_block * ROWS + tl.arange(0, ROWS)
    column = column_block * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    inside, known = row < rows, column < N
    a_tile = a + row.to(tl.int64)[:, None] * K + depth[None, :]
    w_tile = weight + column[None, :] * K + depth[:, None]
    result = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, K, DEPTH):
        deep = depth < K - start
        left = tl.load(a_tile + start, mask=inside[:, None] & deep[None, :], other=0.0)
        right = tl.load(w_tile + start, mask=known[None, :] & deep[:, None], other=0.0)
        result = tl.dot(left, right, result, input_precision=PRECISION)
    result += tl.load(bias + column, mask=known, other=0.0).to(tl.float32)[None, :]
    if GELU:
        result = _gelu(result)
    offset = row.to(tl.int64)[:, None] * N + column[None, :]
    mask = inside[:, None] & known[None, :]
    if RESIDUAL:
        if HAS_KEEP:
            factor = tl.load(keep + row // rows_per_image, mask=inside, other=0.0)
            result *= factor.to(tl.float32)[:, None]
        result += tl.load(residual + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + offset, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gelu_products(
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
    """What the perceptron's backward pass needs of its hidden layer, computed anew.

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


@triton.jit
def mlp_forward(
    x,
    gamma,
    beta,
    up,
    up_bias,
    down,
    down_bias,
    keep,
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
    HAS_KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = x + keep[image] * (gelu(norm(x) @ up^T + up_bias) @ down^T + down_bias)``.

    The hidden layer stays on chip, ``COLUMNS`` of its N channels at a time.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    element = up.dtype.element_ty
    first, second = _split_rows(x, row, inside, left, right, C, RIGHT)
    first, second, _ = _split_units(first, second, eps, C, RIGHT)
    first = _affine(first, gamma, beta, left).to(element)
    out_first = tl.zeros([ROWS, LEFT], tl.float32)
    if RIGHT > 0:
        second = _affine(second, gamma, beta, right).to(element)
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
    if HAS_KEEP:
        factor = tl.load(keep + row // rows_per_image, mask=inside, other=0.0).to(tl.float32)
    start = row.to(tl.int64)[:, None] * C
    out_first += tl.load(down_bias + left).to(tl.float32)[None, :]
    out_first = out_first * factor[:, None]
    out_first += tl.load(x + start + left[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(
        out + start + left[None, :], out_first.to(out.dtype.element_ty), mask=inside[:, None]
    )
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
def _norm_gradient(
    unit_first,
    unit_second,
    grad_first,
    grad_second,
    gamma,
    rstd,
    left,
    right,
    C: tl.constexpr,
    RIGHT: tl.constexpr,
):
    """Gradient of a norm for its input, from the gradient for its output, in two parts."""
    scaled_first = grad_first * tl.load(gamma + left).to(tl.float32)[None, :]
    total = tl.sum(scaled_first, 1)
    along = tl.sum(scaled_first * unit_first, 1)
    scaled_second = scaled_first
    if RIGHT > 0:
        scaled_second = grad_second * tl.load(gamma + right).to(tl.float32)[None, :]
        total += tl.sum(scaled_second, 1)
        along += tl.sum(scaled_second * unit_second, 1)
    mean, along = total / C, along / C
    first = (scaled_first - mean[:, None] - unit_first * along[:, None]) * rstd[:, None]
    second = first
    if RIGHT > 0:
        second = (scaled_second - mean[:, None] - unit_second * along[:, None]) * rstd[:, None]
    return first, second


@triton.jit
def mlp_backward(
    x,
    gamma,
    beta,
    up,
    up_bias,
    down,
    keep,
    grad_out,
    grad_x,
    normed,
    scaled,
    activated,
    grad_hidden,
    grad_gamma,
    grad_beta,
    grad_up_bias,
    grad_down_bias,
    rows,
    rows_per_image,
    eps,
    C: tl.constexpr,
    N: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`mlp_forward`, all but those of the two weights.

    For these it leaves what the products need: ``normed`` and ``scaled`` (rows, C), the norm's
    output and ``keep * grad_out``; ``activated`` and ``grad_hidden`` (rows, N). The gradients of
    norm and biases are each program's share: (programs, C) and (programs, N), float32.
    """
    program = tl.program_id(0)
    row = program * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    element = up.dtype.element_ty
    start = row.to(tl.int64)[:, None] * C
    factor = tl.full([ROWS], 1.0, tl.float32)
    if HAS_KEEP:
        factor = tl.load(keep + row // rows_per_image, mask=inside, other=0.0).to(tl.float32)

    first, second = _split_rows(x, row, inside, left, right, C, RIGHT)
    first, second, rstd = _split_units(first, second, eps, C, RIGHT)
    first = _affine(first, gamma, beta, left).to(element)
    tl.store(normed + start + left[None, :], first, mask=inside[:, None])
    out_first, out_second = _split_rows(grad_out, row, inside, left, right, C, RIGHT)
    out_first = out_first * factor[:, None]
    tl.store(grad_down_bias + program.to(tl.int64) * C + left, tl.sum(out_first, 0))
    out_first = out_first.to(element)
    tl.store(scaled + start + left[None, :], out_first, mask=inside[:, None])
    grad_first = tl.zeros([ROWS, LEFT], tl.float32)
    grad_second = grad_first
    if RIGHT > 0:
        second = _affine(second, gamma, beta, right).to(element)
        tl.store(normed + start + right[None, :], second, mask=inside[:, None])
        out_second = out_second * factor[:, None]
        tl.store(grad_down_bias + program.to(tl.int64) * C + right, tl.sum(out_second, 0))
        out_second = out_second.to(element)
        tl.store(scaled + start + right[None, :], out_second, mask=inside[:, None])
        grad_second = tl.zeros([ROWS, RIGHT], tl.float32)

    for begin in range(0, N, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        hidden = tl.dot(
            first, tl.load(up + column[None, :] * C + left[:, None]), input_precision=PRECISION
        )
        gradient = tl.dot(
            out_first,
            tl.load(down + left[:, None] * N + column[None, :]),
            input_precision=PRECISION,
        )
        if RIGHT > 0:
            tile = tl.load(up + column[None, :] * C + right[:, None])
            hidden = tl.dot(second, tile, hidden, input_precision=PRECISION)
            tile = tl.load(down + right[:, None] * N + column[None, :])
            gradient = tl.dot(out_second, tile, gradient, input_precision=PRECISION)
        value, slope = _gelu_and_slope(
            hidden + tl.load(up_bias + column).to(tl.float32)[None, :]
        )
        gradient = tl.where(inside[:, None], gradient * slope, 0.0)
        tl.store(grad_up_bias + program.to(tl.int64) * N + column, tl.sum(gradient, 0))
        gradient = gradient.to(element)
        target = row.to(tl.int64)[:, None] * N + column[None, :]
        tl.store(activated + target, value.to(element), mask=inside[:, None])
        tl.store(grad_hidden + target, gradient, mask=inside[:, None])
        tile = tl.load(up + column[:, None] * C + left[None, :])
        grad_first = tl.dot(gradient, tile, grad_first, input_precision=PRECISION)
        if RIGHT > 0:
            tile = tl.load(up + column[:, None] * C + right[None, :])
            grad_second = tl.dot(gradient, tile, grad_second, input_precision=PRECISION)

    first, second = _split_rows(x, row, inside, left, right, C, RIGHT)
    first, second, rstd = _split_units(first, second, eps, C, RIGHT)
    share = program.to(tl.int64) * C
    tl.store(grad_gamma + share + left, tl.sum(grad_first * first, 0))
    tl.store(grad_beta + share + left, tl.sum(grad_first, 0))
    if RIGHT > 0:
        tl.store(grad_gamma + share + right, tl.sum(grad_second * second, 0))
        tl.store(grad_beta + share + right, tl.sum(grad_second, 0))
    first, second = _norm_gradient(
        first, second, grad_first, grad_second, gamma, rstd, left, right, C, RIGHT
    )
    first += tl.load(grad_out + start + left[None, :], mask=inside[:, None], other=0.0).to(
        tl.float32
    )
    kind = grad_x.dtype.element_ty
    tl.store(grad_x + start + left[None, :], first.to(kind), mask=inside[:, None])
    if RIGHT > 0:
        second += tl.load(grad_out + start + right[None, :], mask=inside[:, None], other=0.0).to(
            tl.float32
        )
        tl.store(grad_x + start + right[None, :], second.to(kind), mask=inside[:, None])
