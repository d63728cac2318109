"""Batch norm and the activation behind it as Triton kernels, of maps whose channels come last.

A map is a matrix here: pixels of all images by channels. Sums over pixels are taken in the same
order every time. Each program of :func:`channel_statistics` leaves a mean and a sum of squared
differences from it, which :func:`finish_statistics` puts together: nothing cancels where a mean is
large.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _of_channels(values, channel, known):
    return tl.load(values + channel, mask=known, other=0.0).to(tl.float32)[None, :]


@kernel("rows", "rows_each")
def channel_statistics(
    x, partials, rows, rows_each, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """``partials`` (programs, 2, C): mean and sum of squared differences of each program's rows.

    The grid is blocks of ``rows_each`` rows, then blocks of channels.
    """
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    begin = tl.program_id(0) * rows_each
    end = tl.minimum(begin + rows_each, rows)
    first = x + begin.to(tl.int64) * C + channel
    shift = tl.load(first, mask=known, other=0.0).to(tl.float32)[None, :]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        place = row.to(tl.int64)[:, None] * C + channel[None, :]
        mask = (row < end)[:, None] & known[None, :]
        value = tl.where(mask, tl.load(x + place, mask=mask, other=0.0).to(tl.float32) - shift, 0.0)
        total += value
        squares += value * value
    count = (end - begin).to(tl.float32)
    sums = tl.sum(total, 0)
    target = partials + tl.program_id(0).to(tl.int64) * 2 * C + channel
    tl.store(target, tl.sum(shift, 0) + sums / count, mask=known)
    tl.store(target + C, tl.sum(squares, 0) - sums * sums / count, mask=known)


@triton.jit
def _of_all_programs(
    partials, channel, known, rows, rows_each, programs, C: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean, and sum of squared differences from it, of what :func:`channel_statistics` left."""
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, programs, ROWS):
        program = start + tl.arange(0, ROWS)
        count = tl.minimum(rows - program * rows_each, rows_each).to(tl.float32)[:, None]
        place = program.to(tl.int64)[:, None] * 2 * C + channel[None, :]
        mask = (program < programs)[:, None] & known[None, :]
        total += tl.where(mask, count * tl.load(partials + place, mask=mask, other=0.0), 0.0)
    mean = tl.sum(total, 0) / rows
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, programs, ROWS):
        program = start + tl.arange(0, ROWS)
        count = tl.minimum(rows - program * rows_each, rows_each).to(tl.float32)[:, None]
        place = program.to(tl.int64)[:, None] * 2 * C + channel[None, :]
        mask = (program < programs)[:, None] & known[None, :]
        apart = tl.load(partials + place, mask=mask, other=0.0) - mean[None, :]
        inside = tl.load(partials + place + C, mask=mask, other=0.0)
        total += tl.where(mask, inside + count * apart * apart, 0.0)
    return mean, tl.sum(total, 0)


@triton.jit
def _move(running, now, momentum, known):
    old = tl.load(running, mask=known)
    tl.store(running, old + momentum * (now - old), mask=known)


@kernel("rows", "rows_each", "programs")
def finish_statistics(
    partials,
    running_mean,
    running_var,
    batches,
    statistics,
    rows,
    rows_each,
    programs,
    eps,
    momentum,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``statistics`` (2, C): mean and one over the standard deviation; running ones are moved, and
    ``batches`` is counted up.

    The grid is blocks of channels.
    """
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    mean, squares = _of_all_programs(
        partials, channel, known, rows, rows_each, programs, C, ROWS, COLUMNS
    )
    tl.store(statistics + channel, mean, mask=known)
    tl.store(statistics + C + channel, 1.0 / tl.sqrt(squares / rows + eps), mask=known)
    _move(running_mean + channel, mean, momentum, known)
    _move(running_var + channel, squares / (rows - 1), momentum, known)
    if tl.program_id(0) == 0:
        tl.store(batches, tl.load(batches) + 1)


@kernel("rows", "rows_each", "programs")
def own_statistics(
    partials,
    statistics,
    rows,
    rows_each,
    programs,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``statistics`` (2 C + 1,): a process's mean, one over its standard deviation, and its rows.

    The grid is blocks of channels.
    """
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    mean, squares = _of_all_programs(
        partials, channel, known, rows, rows_each, programs, C, ROWS, COLUMNS
    )
    tl.store(statistics + channel, mean, mask=known)
    tl.store(statistics + C + channel, 1.0 / tl.sqrt(squares / rows + eps), mask=known)
    if tl.program_id(0) == 0:
        tl.store(statistics + 2 * C, rows.to(tl.float32))


@triton.jit
def _of_processes(gathered, process, processes, channel, known, eps, C: tl.constexpr):
    """Rows, mean and sum of squared differences of some processes; zeros of one without rows."""
    row = gathered + process.to(tl.int64) * (2 * C + 1)
    mask = (process < processes)[:, None] & known[None, :]
    count = tl.load(row + 2 * C, mask=process < processes, other=0.0)[:, None]
    mean = tl.load(row[:, None] + channel[None, :], mask=mask, other=0.0)
    inverse = tl.load(row[:, None] + C + channel[None, :], mask=mask & (count > 0.0), other=1.0)
    squares = count * tl.maximum(1.0 / (inverse * inverse) - eps, 0.0)
    return count, mean, squares


@kernel("processes")
def statistics_of_processes(
    gathered,
    running_mean,
    running_var,
    batches,
    statistics,
    processes,
    eps,
    momentum,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``statistics`` (2 C + 1,), as of one process with the rows of all, from those of each,
    ``gathered`` (processes, 2 C + 1); running ones are moved, and ``batches`` is counted up.

    The grid is blocks of channels.
    """
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    counts = tl.zeros([ROWS, 1], tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, processes, ROWS):
        process = start + tl.arange(0, ROWS)
        count, mean, _ = _of_processes(gathered, process, processes, channel, known, eps, C)
        counts += count
        total += count * mean
    rows = tl.sum(tl.sum(counts, 1), 0)
    mean_of_all = tl.sum(total, 0) / rows
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, processes, ROWS):
        process = start + tl.arange(0, ROWS)
        count, mean, squares = _of_processes(gathered, process, processes, channel, known, eps, C)
        apart = mean - mean_of_all[None, :]
        total += squares + count * apart * apart
    squares_of_all = tl.sum(total, 0)
    tl.store(statistics + channel, mean_of_all, mask=known)
    tl.store(statistics + C + channel, 1.0 / tl.sqrt(squares_of_all / rows + eps), mask=known)
    _move(running_mean + channel, mean_of_all, momentum, known)
    # Of one pixel in all, where torch has 0 / 0.
    spread = squares_of_all / tl.maximum(rows - 1.0, 1.0)
    _move(running_var + channel, spread, momentum, known)
    if tl.program_id(0) == 0:
        tl.store(statistics + 2 * C, rows)
        tl.store(batches, tl.load(batches) + 1)


@kernel("rows")
def normalise_channels(
    x,
    statistics,
    weight,
    bias,
    out,
    rows,
    C: tl.constexpr,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``out``: ``x`` normalised by ``statistics`` (2, C), scaled and shifted.

    The grid is blocks of rows, then blocks of channels.
    """
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = row.to(tl.int64)[:, None] * C + channel[None, :]
    mask = (row < rows)[:, None] & known[None, :]
    mean = _of_channels(statistics, channel, known)
    scale = _of_channels(statistics + C, channel, known) * _of_channels(weight, channel, known)
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    value = (value - mean) * scale + _of_channels(bias, channel, known)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(out + place, value, mask=mask)


@triton.jit
def _gradient_and_unit(
    grad_out, x, statistics, weight, bias, row, channel, mask, known, pitch, C: tl.constexpr,
    RELU: tl.constexpr,
):  # fmt: skip
    """The gradient behind scale and shift, and what was scaled and shifted."""
    mean = _of_channels(statistics, channel, known)
    place = row.to(tl.int64)[:, None] * C + channel[None, :]
    unit = tl.load(x + place, mask=mask, other=0.0).to(tl.float32) - mean
    unit *= _of_channels(statistics + C, channel, known)
    source = row.to(tl.int64)[:, None] * pitch + channel[None, :]
    grad = tl.load(grad_out + source, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        value = unit * _of_channels(weight, channel, known) + _of_channels(bias, channel, known)
        grad = tl.where(value > 0.0, grad, 0.0)
    return grad, unit


@kernel("rows", "rows_each", "pitch")
def gradient_sums(
    grad_out,
    x,
    statistics,
    weight,
    bias,
    partials,
    rows,
    rows_each,
    pitch,
    C: tl.constexpr,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``partials`` (programs, 2 C): each program's parts of the gradients of weight and bias.

    Rows of ``grad_out`` are ``pitch`` elements apart. The grid is that of
    :func:`channel_statistics`.
    """
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    begin = tl.program_id(0) * rows_each
    end = tl.minimum(begin + rows_each, rows)
    of_weight = tl.zeros([ROWS, COLUMNS], tl.float32)
    of_bias = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & known[None, :]
        grad, unit = _gradient_and_unit(
            grad_out, x, statistics, weight, bias, row, channel, mask, known, pitch, C, RELU
        )
        of_weight += grad * unit
        of_bias += grad
    target = partials + tl.program_id(0).to(tl.int64) * 2 * C + channel
    tl.store(target, tl.sum(of_weight, 0), mask=known)
    tl.store(target + C, tl.sum(of_bias, 0), mask=known)


@kernel("rows", "pitch")
def normalise_channels_backward(
    grad_out,
    x,
    statistics,
    weight,
    bias,
    sums,
    grad_x,
    rows,
    pitch,
    C: tl.constexpr,
    RELU: tl.constexpr,
    TOGETHER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``grad_x``, given ``sums`` (2, C): the gradients of weight and bias; ``TOGETHER``, sums over
    all processes of the gradient and of its product with what is left of ``x`` without its mean,
    and ``statistics`` (2 C + 1,) with the rows of all.

    The grid is that of :func:`normalise_channels`.
    """
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = (row < rows)[:, None] & known[None, :]
    grad, unit = _gradient_and_unit(
        grad_out, x, statistics, weight, bias, row, channel, mask, known, pitch, C, RELU
    )
    inverse = _of_channels(statistics + C, channel, known)
    if TOGETHER:
        rows_of_all = tl.load(statistics + 2 * C)
        of_bias = _of_channels(sums, channel, known) / rows_of_all
        of_weight = _of_channels(sums + C, channel, known) * inverse / rows_of_all
    else:
        of_bias = _of_channels(sums + C, channel, known) / rows
        of_weight = _of_channels(sums, channel, known) / rows
    grad -= of_bias
    grad -= unit * of_weight
    place = row.to(tl.int64)[:, None] * C + channel[None, :]
    scale = inverse * _of_channels(weight, channel, known)
    tl.store(grad_x + place, scale * grad, mask=mask)


@kernel("rows")
def normalise_few(
    x,
    running_mean,
    running_var,
    batches,
    weight,
    bias,
    statistics,
    out,
    rows,
    eps,
    momentum,
    C: tl.constexpr,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """All of a small map's norm: statistics, as :func:`finish_statistics` has them, and ``out``.

    The grid is blocks of channels.
    """
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    shift = _of_channels(x, channel, known)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & known[None, :]
        value = tl.load(x + row[:, None] * C + channel[None, :], mask=mask, other=0.0)
        value = tl.where(mask, value.to(tl.float32) - shift, 0.0)
        total += value
        squares += value * value
    sums = tl.sum(total, 0)
    mean = tl.sum(shift, 0) + sums / rows
    squares_of_all = tl.sum(squares, 0) - sums * sums / rows
    inverse = 1.0 / tl.sqrt(squares_of_all / rows + eps)
    tl.store(statistics + channel, mean, mask=known)
    tl.store(statistics + C + channel, inverse, mask=known)
    _move(running_mean + channel, mean, momentum, known)
    _move(running_var + channel, squares_of_all / (rows - 1), momentum, known)
    if tl.program_id(0) == 0:
        tl.store(batches, tl.load(batches) + 1)
    scale = inverse[None, :] * _of_channels(weight, channel, known)
    offset = _of_channels(bias, channel, known)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & known[None, :]
        place = row[:, None] * C + channel[None, :]
        value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        value = (value - mean[None, :]) * scale + offset
        if RELU:
            value = tl.maximum(value, 0.0)
        tl.store(out + place, value, mask=mask)


@kernel("rows", "pitch")
def normalise_few_backward(
    grad_out,
    x,
    statistics,
    weight,
    bias,
    sums,
    grad_x,
    rows,
    pitch,
    C: tl.constexpr,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``grad_x`` and ``sums`` (2, C), the gradients of weight and bias. The grid is blocks of
    channels."""
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    of_weight = tl.zeros([ROWS, COLUMNS], tl.float32)
    of_bias = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & known[None, :]
        grad, unit = _gradient_and_unit(
            grad_out, x, statistics, weight, bias, row, channel, mask, known, pitch, C, RELU
        )
        of_weight += grad * unit
        of_bias += grad
    sum_weight, sum_bias = tl.sum(of_weight, 0), tl.sum(of_bias, 0)
    tl.store(sums + channel, sum_weight, mask=known)
    tl.store(sums + C + channel, sum_bias, mask=known)
    scale = _of_channels(statistics + C, channel, known) * _of_channels(weight, channel, known)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & known[None, :]
        grad, unit = _gradient_and_unit(
            grad_out, x, statistics, weight, bias, row, channel, mask, known, pitch, C, RELU
        )
        grad -= (sum_bias[None, :] + unit * sum_weight[None, :]) / rows
        tl.store(grad_x + row[:, None] * C + channel[None, :], scale * grad, mask=mask)


@kernel("elements")
def fold_norm(
    kernel_weight,
    running_mean,
    running_var,
    weight,
    bias,
    folded,
    shift,
    elements,
    eps,
    BLOCK: tl.constexpr,
):
    """``folded``: ``kernel_weight`` (outputs, elements) scaled, and ``shift`` (outputs,), so that
    convolution and norm are one convolution. The grid is blocks of elements, then outputs."""
    output = tl.program_id(1)
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = output.to(tl.int64) * elements + element
    scale = tl.load(weight + output).to(tl.float32)
    scale *= 1.0 / tl.sqrt(tl.load(running_var + output).to(tl.float32) + eps)
    value = tl.load(kernel_weight + place, mask=element < elements, other=0.0).to(tl.float32)
    tl.store(folded + place, scale * value, mask=element < elements)
    if tl.program_id(0) == 0:
        mean = tl.load(running_mean + output).to(tl.float32)
        tl.store(shift + output, tl.load(bias + output).to(tl.float32) - mean * scale)


@kernel("rows")
def shift_channels(
    x, shift, rows, C: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Adds ``shift`` (C,) to ``x`` in place. The grid is that of :func:`normalise_channels`."""
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < C
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = row.to(tl.int64)[:, None] * C + channel[None, :]
    mask = (row < rows)[:, None] & known[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    value += _of_channels(shift, channel, known)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(x + place, value, mask=mask)
