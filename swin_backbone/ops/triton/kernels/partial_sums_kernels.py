"""Sums of the partial sums that programs leave of gradients that all of them add to.

Partial sums are rows, one a program. A program here takes a few columns, and adds up their rows
in a fixed order: no atomics, the same bits every time.
"""

import triton
import triton.language as tl

from .jit import kernel


@triton.jit
def _blocks(WIDTH: tl.constexpr, ROWS: tl.constexpr, ELEMENTS: tl.constexpr):
    """Programs that WIDTH columns take, if each holds ROWS rows at once."""
    COLUMNS: tl.constexpr = ELEMENTS // ROWS
    return (WIDTH + COLUMNS - 1) // COLUMNS


@triton.jit
def _sum_columns(
    partials, out, rows, block, WIDTH: tl.constexpr, PITCH: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of ``block`` of the WIDTH columns of ``partials``, rows ``PITCH`` apart, if there is."""
    if (block >= 0) & (block * COLUMNS < WIDTH):
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        known = column < WIDTH
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in range(0, rows, ROWS):
            row = start + tl.arange(0, ROWS)
            place = row.to(tl.int64)[:, None] * PITCH + column[None, :]
            total += tl.load(
                partials + place, mask=(row < rows)[:, None] & known[None, :], other=0.0
            )
        tl.store(out + column, tl.sum(total, 0), mask=known)


@triton.jit
def _sum_offsets(
    partials, table, rows, block, PITCH: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
    KEYS: tl.constexpr, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, SIDE: tl.constexpr,
    ITEMS: tl.constexpr, OFFSETS: tl.constexpr,
):  # fmt: skip
    """For one head, sums over the pairs of tokens with the same offset, of one number of rows.

    A row of ``partials`` begins with (HEADS, PAIRS), where the pair of a query and a key is
    ``query * KEYS + key``. A row of queries and a row of keys are ``WINDOW_W`` by ``WINDOW_W``
    pairs of which neighbouring keys lie side by side; they are added up as they lie, and their
    diagonals at the end. ``table`` is ((2 WINDOW_H - 1) (2 WINDOW_W - 1), HEADS).
    """
    HEIGHT: tl.constexpr = 2 * WINDOW_H - 1
    WIDTH: tl.constexpr = 2 * WINDOW_W - 1
    if block >= 0:
        head, down = block // HEIGHT, block % HEIGHT - (WINDOW_H - 1)
        first_key_row = tl.maximum(-down, 0)
        height = WINDOW_H - tl.abs(down)  # rows of keys that have such a row of queries
        query_column = tl.arange(0, SIDE * SIDE) // SIDE
        key_column = tl.arange(0, SIDE * SIDE) % SIDE
        known = (query_column < WINDOW_W) & (key_column < WINDOW_W)
        inside = query_column * KEYS + key_column
        total = tl.zeros([ITEMS, SIDE * SIDE], tl.float32)
        for start in range(0, rows * height, ITEMS):
            item = start + tl.arange(0, ITEMS)
            key_row = first_key_row + item % height
            place = (item // height).to(tl.int64) * PITCH + head * PAIRS
            place += (key_row + down) * (WINDOW_W * KEYS) + key_row * WINDOW_W
            present = (item < rows * height)[:, None] & known[None, :]
            total += tl.load(partials + place[:, None] + inside[None, :], mask=present, other=0.0)
        pairs = tl.sum(total, 0)
        for start in range(0, WIDTH, OFFSETS):
            across = start + tl.arange(0, OFFSETS)
            diagonal = across[:, None] - (WINDOW_W - 1) == (query_column - key_column)[None, :]
            gradient = tl.sum(tl.where(diagonal, pairs[None, :], 0.0), 1)
            row = (block % HEIGHT) * WIDTH + across
            tl.store(table + row * HEADS + head, gradient, mask=across < WIDTH)


@kernel("rows_of_first", "rows_of_second", "rows_of_third")
def sum_partials(
    first,
    second,
    third,
    out,
    rows_of_first,
    rows_of_second,
    rows_of_third,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    THIRD: tl.constexpr,
    FIRST_ROWS: tl.constexpr,
    SECOND_ROWS: tl.constexpr,
    THIRD_ROWS: tl.constexpr,
    ELEMENTS: tl.constexpr,
    PITCH: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    SIDE: tl.constexpr,
    ITEMS: tl.constexpr,
    OFFSETS: tl.constexpr,
):
    """Column sums of up to three float32 matrices, one after the other in ``out``.

    They have ``FIRST``, ``SECOND`` and ``THIRD`` columns, zero for a matrix that there is not; a
    program holds ``ELEMENTS`` of one, ``FIRST_ROWS`` (and so on) rows at once. With ``HEADS``, the
    first one's rows are ``PITCH`` apart and hold, before those columns, the gradients of an
    attention's biases, pair by pair; the gradient of the bias table is last in ``out``, see
    :func:`_sum_offsets`. The grid is blocks of columns of each matrix, then rows of offsets of each
    head.
    """
    block = tl.program_id(0)
    _sum_columns(
        first + HEADS * PAIRS, out, rows_of_first, block, FIRST, PITCH, FIRST_ROWS,
        ELEMENTS // FIRST_ROWS,
    )  # fmt: skip
    block -= _blocks(FIRST, FIRST_ROWS, ELEMENTS)
    if SECOND > 0:
        _sum_columns(
            second, out + FIRST, rows_of_second, block, SECOND, SECOND, SECOND_ROWS,
            ELEMENTS // SECOND_ROWS,
        )  # fmt: skip
        block -= _blocks(SECOND, SECOND_ROWS, ELEMENTS)
    if THIRD > 0:
        _sum_columns(
            third, out + FIRST + SECOND, rows_of_third, block, THIRD, THIRD, THIRD_ROWS,
            ELEMENTS // THIRD_ROWS,
        )  # fmt: skip
        block -= _blocks(THIRD, THIRD_ROWS, ELEMENTS)
    if HEADS > 0:
        _sum_offsets(
            first, out + FIRST + SECOND + THIRD, rows_of_first, block, PITCH, HEADS, PAIRS, KEYS,
            WINDOW_H, WINDOW_W, SIDE, ITEMS, OFFSETS,
        )  # fmt: skip
