"""An MLP whose norm comes behind it (Swin V2), with its hidden layer on chip: forward and backward.

Rows are tokens, whose channels fit on chip in two parts (see :mod:`.linear_kernels`).
"""

import triton.language as tl

from .jit import kernel
from .linear_kernels import _gelu, _gelu_and_slope
from .post_norm_kernels import (
    _branch_gradient,
    _finish_branch,
    _load_part,
    _load_rows,
    _path_scales,
    _store_rows,
)


@kernel("rows", "rows_per_image")
def post_norm_mlp_forward(
    x,
    up,
    up_bias,
    down,
    down_bias,
    gamma,
    beta,
    path_scale,
    low,
    z,
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
    KEEP_LOW: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out = x + path_scale[image] * norm(z)``, ``z = gelu(x @ up^T + up_bias) @ down^T +
    down_bias``.

    The hidden layer stays on chip, ``COLUMNS`` of its N channels at a time. With ``KEEP``, ``z``
    (rows, C) is written, and with ``KEEP_LOW`` ``low``, which is ``x`` in the weights' dtype.
    """
    program = tl.program_id(0)
    begin = program.to(tl.int64) * ROWS * C
    row = tl.arange(0, ROWS)
    inside = program * ROWS + row < rows
    x += begin
    low += begin
    z += begin
    out += begin
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    element = up.dtype.element_ty
    first, second = _load_rows(x, row, inside, left, right, C, RIGHT)
    first, second = first.to(element), second.to(element)
    if KEEP_LOW:
        _store_rows(low, first, second, row, inside, left, right, C, RIGHT)
    out_first = tl.zeros([ROWS, LEFT], tl.float32)
    out_second = out_first
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
    out_first += tl.load(down_bias + left).to(tl.float32)[None, :]
    if RIGHT > 0:
        out_second += tl.load(down_bias + right).to(tl.float32)[None, :]
    if KEEP:
        _store_rows(z, out_first, out_second, row, inside, left, right, C, RIGHT)
    token = program * ROWS + row
    factor = _path_scales(path_scale, token, inside, rows_per_image, ROWS, HAS_PATH_SCALE)
    _finish_branch(
        out_first, out_second, gamma, beta, x, factor, out, row, inside, left, right, eps, C, RIGHT
    )


@kernel("rows", "rows_per_image")
def post_norm_mlp_backward(
    low,
    z,
    up,
    up_bias,
    down,
    gamma,
    path_scale,
    grad_out,
    grad_x,
    grad_z,
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
    """Gradient of :func:`post_norm_mlp_forward` for ``x``, and for ``z``, in the weights' dtype.

    ``partials`` (programs, 3 C) float32 are each program's partial sums of the gradients of gamma,
    beta and ``down_bias``. With ``WRITE_HIDDEN``, N more columns are those of ``up_bias``, and
    ``activated`` and ``grad_hidden`` (rows, N) are the hidden layer behind gelu and the gradient
    before it.
    """
    PITCH: tl.constexpr = 3 * C + N if WRITE_HIDDEN else 3 * C
    program = tl.program_id(0)
    begin = program.to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    inside = program * ROWS + row < rows
    here = inside[:, None]
    left = tl.arange(0, LEFT)
    right = LEFT + tl.arange(0, RIGHT if RIGHT > 0 else 16)
    element = up.dtype.element_ty
    partial = partials + program.to(tl.int64) * PITCH
    low += begin * C
    z += begin * C
    grad_out += begin * C
    grad_x += begin * C
    grad_z += begin * C
    activated += begin * N
    grad_hidden += begin * N
    token = program * ROWS + row
    factor = _path_scales(path_scale, token, inside, rows_per_image, ROWS, HAS_PATH_SCALE)
    out_first, out_second = _load_rows(z, row, inside, left, right, C, RIGHT)
    out_first, out_second = _branch_gradient(
        out_first, out_second, gamma, grad_out, factor, partial, row, inside, left, right, eps, C,
        RIGHT,
    )  # fmt: skip
    out_first, out_second = out_first.to(element), out_second.to(element)
    _store_rows(grad_z, out_first, out_second, row, inside, left, right, C, RIGHT)
    place = row[:, None] * C
    first = tl.load(low + (place + left[None, :]), mask=here, other=0.0)
    grad_first = tl.zeros([ROWS, LEFT], tl.float32)
    grad_second = grad_first
    if RIGHT > 0:
        second = tl.load(low + (place + right[None, :]), mask=here, other=0.0)
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
        gradient *= slope
        if WRITE_HIDDEN:
            tl.store(partial + 3 * C + column, tl.sum(gradient, 0))
        gradient = gradient.to(element)
        if WRITE_HIDDEN:
            target = row[:, None] * N + column[None, :]
            tl.store(activated + target, value.to(element), mask=here)
            tl.store(grad_hidden + target, gradient, mask=here)
        grad_first = tl.dot(gradient, up_first, grad_first, input_precision=PRECISION)
        if RIGHT > 0:
            grad_second = tl.dot(gradient, up_second, grad_second, input_precision=PRECISION)

    grad_first += _load_part(grad_out, row, inside, left, C)
    if RIGHT > 0:
        grad_second += _load_part(grad_out, row, inside, right, C)
    _store_rows(grad_x, grad_first, grad_second, row, inside, left, right, C, RIGHT)
