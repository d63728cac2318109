"""Sums of partial sums: the last step of gradients that all programs of a kernel add to.

An operation collects the partial sums that its kernels leave, and has them summed by one launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
from torch import Tensor

from .kernels.partial_sums_kernels import sum_partials
from .launch import Launch, remembered

#: Elements that a program holds at once: with 8 warps, 32 in flight for each thread.
ELEMENTS, WARPS = 8192, 8
#: Rows that a program holds at once, where there are few and where there are many: eight columns
#: are what memory is read in. Not more numbers, since the kernel is compiled for each.
FEW, MANY = 64, 1024


class Pairs(NamedTuple):
    """Partial sums of an attention's biases, pair by pair: the first columns of a matrix.

    Attributes:
        heads: number of heads.
        pairs: columns for each head; that of a query and a key is ``query * keys + key``.
        keys: see there.
        height: of a window, in tokens.
        width: likewise.
    """

    heads: int = 0
    pairs: int = 0
    keys: int = 0
    height: int = 0
    width: int = 0

    @property
    def columns(self) -> int:
        return self.heads * self.pairs

    @property
    def table_rows(self) -> int:
        """Rows of the table of biases, one for each offset between two tokens."""
        return (2 * self.height - 1) * (2 * self.width - 1)


_NONE = Pairs()


def summed(
    partials: Sequence[Tensor],
    pieces: Sequence[int],
    pairs: Pairs = _NONE,
    pair_partials: Tensor | None = None,
) -> list[Tensor]:
    """Sums over rows, in one launch and in an order that is always the same.

    Args:
        partials: one to three matrices (programs, columns), float32, contiguous.
        pieces: into how many columns each the sums are cut.
        pairs: what the first columns of the first matrix are; their gradients are summed up to
            those of the bias table, (rows, heads), flat, after the columns of all matrices. Of the
            first matrix, columns beyond those that ``pieces`` cover are not summed.
        pair_partials: (programs, columns of ``pairs``), if it is there that they are, and not in
            the first matrix: then a launch of their own.

    Returns:
        Float32 vectors of as many elements as ``pieces`` says. They share memory.
    """
    if pair_partials is not None:
        return [*summed(partials, pieces[:-1]), *summed([pair_partials], pieces[-1:], pairs)]
    first, total = partials[0], sum(pieces)
    out = first.new_empty(total)
    launch = _launch(tuple([matrix.shape for matrix in partials]), total, pairs)
    second, third = (*partials, first, first)[1:3]
    launch(first, second, third, out)
    return out.split_with_sizes(pieces)


@remembered
def _launch(shapes: tuple[tuple[int, int], ...], total: int, pairs: Pairs) -> Launch:
    (first, *others), offsets = shapes, pairs.table_rows if pairs.heads else 0
    widths = [columns for _, columns in others]
    widths = [total - sum(widths) - pairs.heads * offsets, *widths, 0, 0][:3]
    numbers = [rows for rows, _ in (first, *others, (0, 0), (0, 0))][:3]
    blocks = [FEW if rows <= FEW else MANY for rows in numbers]
    side = triton.next_power_of_2(max(1, pairs.width))
    items = max(1, ELEMENTS // side**2)
    constants = {"FIRST": widths[0], "SECOND": widths[1], "THIRD": widths[2]}
    constants |= {"FIRST_ROWS": blocks[0], "SECOND_ROWS": blocks[1], "THIRD_ROWS": blocks[2]}
    constants |= {"ELEMENTS": ELEMENTS, "PITCH": first[1]}
    constants |= {"HEADS": pairs.heads, "PAIRS": pairs.pairs, "KEYS": pairs.keys}
    constants |= {"WINDOW_H": pairs.height, "WINDOW_W": pairs.width, "SIDE": side}
    constants |= {"ITEMS": items, "OFFSETS": min(items, 2 * side)}
    programs = sum(map(triton.cdiv, widths, [ELEMENTS // rows for rows in blocks]))
    programs += pairs.heads * (2 * pairs.height - 1)
    return Launch(sum_partials, (programs,), tuple(numbers), constants, {"num_warps": WARPS})
