"""Layer norms as Triton kernels, alone or with what stands beside them.

Rows are tokens, ``C`` their channels, ``COLUMNS`` the power of two that holds them. Statistics are
computed in float32 in two passes over a row on chip, and again in the backward pass: reading a row
is all they cost. A source may be a map whose rows are gathered from 2 x 2 neighbourhoods.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _statistics(x, inside, eps, C: tl.constexpr):
    """Mean and 1 / standard deviation of rows; ``x`` is zero outside."""
    mean = tl.sum(x, 1) / C
    centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / C
    return mean, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def _valid_size(image, inside, valid):
    """Rows and columns that belong to images, of ``valid`` (B, 2)."""
    height = tl.load(valid + 2 * image, mask=inside, other=0)
    width = tl.load(valid + 2 * image + 1, mask=inside, other=0)
    return height, width


@triton.jit
def _in_image(row, inside, height, width, valid):
    """Whether tokens of maps (B, height, width) lie in their image's own area."""
    place = row % (height * width)
    own_height, own_width = _valid_size(row // (height * width), inside, valid)
    return (place // width < own_height) & (place % width < own_width)


@triton.jit
def _merged_place(column, C: tl.constexpr, BY_COLUMN: tl.constexpr):
    """Where the parameters of merged channels lie, which are counted neighbour by neighbour."""
    place = column
    if not BY_COLUMN:
        place = column % C * 4 + column // C
    return place


@triton.jit
def _merged_offset(
    row, column, inside, height, width, valid, C: tl.constexpr, BY_COLUMN: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Where element ``column`` of merged token ``row`` lies in a map (B, height, width, C).

    Merged channels are the four neighbours' channels in the order of ``nn.Unfold``, so element
    ``4 c + 2 i + j`` is channel ``c`` of the neighbour ``i`` rows down and ``j`` columns right.
    Here ``column`` counts neighbour by neighbour, so that neighbouring elements lie side by side.
    ``BY_COLUMN``: so do the parameters, and element ``(2 j + i) C + c`` is that channel. Returns
    the offset, whether it is on the map, and whether it is in its image's own area too.
    """
    merged_height = (height + 1) // 2
    merged_width = (width + 1) // 2
    image = row // (merged_height * merged_width)
    y = row % (merged_height * merged_width) // merged_width * 2
    x = row % merged_width * 2
    neighbour = column // C
    channel = column % C
    down, right = neighbour // 2, neighbour % 2
    if BY_COLUMN:
        down, right = right, down
    y = y[:, None] + down[None, :]
    x = x[:, None] + right[None, :]
    on_map = inside[:, None] & (y < height) & (x < width) & (neighbour < 4)[None, :]
    seen = on_map
    if MASKED:
        own_height, own_width = _valid_size(image, inside, valid)
        seen = on_map & (y < own_height[:, None]) & (x < own_width[:, None])
    token = image.to(tl.int64)[:, None] * height * width + y * width + x
    return token * C + channel[None, :], on_map, seen


@kernel("rows", "height", "width")
def norm_forward(
    x,
    gamma,
    beta,
    valid,
    out,
    rows,
    eps,
    height,
    width,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    MERGE: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Norm of rows (rows, C), or, with ``MERGE``, of merged neighbourhoods of a map (.., C / 4).

    With ``MASKED``, rows are tokens of maps (B, height, width). Those outside ``valid`` (B, 2) are
    zero: of the output, or, with ``MERGE``, of the map whose neighbourhoods are merged.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < C)[None, :]
    if MERGE:
        offset, _, seen = _merged_offset(
            row, column, row < rows, height, width, valid, C // 4, BY_COLUMN, MASKED
        )
        place = _merged_place(column, C // 4, BY_COLUMN)
    else:
        offset = row.to(tl.int64)[:, None] * C + column[None, :]
        place = column
        seen = inside
        if MASKED:
            seen = inside & _in_image(row, row < rows, height, width, valid)[:, None]
    values = tl.load(x + offset, mask=seen, other=0.0).to(tl.float32)
    mean, rstd = _statistics(values, inside, eps, C)
    weight = tl.load(gamma + place, mask=column < C, other=0.0).to(tl.float32)
    shift = tl.load(beta + place, mask=column < C, other=0.0).to(tl.float32)
    normed = (values - mean[:, None]) * rstd[:, None] * weight[None, :] + shift[None, :]
    if MASKED and not MERGE:
        normed = tl.where(seen, normed, 0.0)
    target = out + row.to(tl.int64)[:, None] * C + column[None, :]
    tl.store(target, normed.to(out.dtype.element_ty), mask=inside)


@kernel("rows", "height", "width", "blocks_per_program")
def norm_backward(
    x,
    gamma,
    beta,
    valid,
    grad_normed,
    grad_residual,
    grad_x,
    normed,
    partials,
    rows,
    eps,
    height,
    width,
    pixels,
    blocks_per_program,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    MERGE: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    MASKED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    WRITE_NORMED: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
):
    """Gradient for ``x``, plus that of the residual path; the normed rows again if wanted.

    ``partials`` (programs, 2, C) are each program's partial sums of the gradients of gamma and
    beta, in float32 and in this order. With ``CHANNELS_FIRST``, ``grad_normed`` alone is (B, C,
    pixels) in memory, and the others are not merged.
    """
    column = tl.arange(0, COLUMNS)
    if MERGE:
        place = _merged_place(column, C // 4, BY_COLUMN)
    else:
        place = column
    weight = tl.load(gamma + place, mask=column < C, other=0.0).to(tl.float32)
    shift = tl.load(beta + place, mask=column < C, other=0.0).to(tl.float32)
    # Summed over rows at the end: across the threads of a program that costs too much each time.
    gamma_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    beta_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    first = tl.program_id(0) * blocks_per_program * ROWS
    for start in range(first, tl.minimum(first + blocks_per_program * ROWS, rows), ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < C)[None, :]
        flat = row.to(tl.int64)[:, None] * C + column[None, :]
        if MERGE:
            offset, present, seen = _merged_offset(
                row, column, row < rows, height, width, valid, C // 4, BY_COLUMN, MASKED
            )
            given = inside
        else:
            offset = flat
            present = inside
            seen = inside
            if MASKED:
                seen = inside & _in_image(row, row < rows, height, width, valid)[:, None]
            given = seen
        values = tl.load(x + offset, mask=seen, other=0.0).to(tl.float32)
        source = flat
        if CHANNELS_FIRST:
            image = (row // pixels).to(tl.int64)
            source = (image * C * pixels + row % pixels)[:, None] + column[None, :] * pixels
        gradient = tl.load(grad_normed + source, mask=given, other=0.0).to(tl.float32)
        mean, rstd = _statistics(values, inside, eps, C)
        unit = tl.where(inside, (values - mean[:, None]) * rstd[:, None], 0.0)
        gamma_sum += gradient * unit
        beta_sum += gradient
        scaled = gradient * weight[None, :]
        along = tl.sum(scaled * unit, 1) / C
        result = (scaled - (tl.sum(scaled, 1) / C)[:, None] - unit * along[:, None]) * rstd[:, None]
        if MASKED and MERGE:
            result = tl.where(seen, result, 0.0)
        if RESIDUAL:
            result += tl.load(grad_residual + offset, mask=present, other=0.0).to(tl.float32)
        tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask=present)
        if WRITE_NORMED:
            again = unit * weight[None, :] + shift[None, :]
            tl.store(normed + flat, again.to(normed.dtype.element_ty), mask=inside)
    partial = partials + tl.program_id(0).to(tl.int64) * 2 * C + place
    tl.store(partial, tl.sum(gamma_sum, 0), mask=column < C)
    tl.store(partial + C, tl.sum(beta_sum, 0), mask=column < C)


@kernel("rows", "rows_per_image", "rows_per_program")
def scale_rows(
    x,
    path_scale,
    out,
    sums,
    rows,
    rows_per_image,
    rows_per_program,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_PATH_SCALE: tl.constexpr,
):
    """``out = path_scale[image] * x``, and each program's partial column sums in ``sums``."""
    column = tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    first = tl.program_id(0) * rows_per_program
    for start in range(first, tl.minimum(first + rows_per_program, rows), ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < C)[None, :]
        offset = row.to(tl.int64)[:, None] * C + column[None, :]
        values = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
        if HAS_PATH_SCALE:
            factor = tl.load(path_scale + row // rows_per_image, mask=row < rows, other=0.0)
            values *= factor.to(tl.float32)[:, None]
        total += values
        tl.store(out + offset, values.to(out.dtype.element_ty), mask=inside)
    partial = tl.program_id(0).to(tl.int64) * C + column
    tl.store(sums + partial, tl.sum(total, 0), mask=column < C)
