"""Windows as lists of rows of the flattened map: pad, shift and partition in one gather."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry.windows import WindowGrid, partition_windows


class WindowRows(NamedTuple):
    """Which token of a flattened map (B * H * W tokens) stands where in the windows.

    Windows are sorted by the pairs of tokens that the shift forbids: of all windows, only those of
    the last row and column have any, and there are but three patterns.

    Attributes:
        token: int64 (windows * N,) row of the map for each token of each window; 0 for padding.
        padding: int64 (P,), which of them are padding.
        position: int64 (B * H * W,), where each token of the map stands in the windows.
        kinds: how many windows there are of each pattern, and the pattern: bool (N, N), ``True``
            where forbidden, or ``None``.
    """

    token: Tensor
    padding: Tensor
    position: Tensor
    kinds: list[tuple[int, Tensor | None]]


#: Tables of a map of more tokens than this are made anew: beside what is computed for so many
#: tokens that takes no time, and they would take more than a megabyte each.
FEW_TOKENS = 2**16


def window_rows(grid: WindowGrid, batch: int) -> WindowRows:
    """Sort the windows of ``batch`` maps; nobody may change the tables."""
    few = batch == 1 and grid.height * grid.width <= FEW_TOKENS
    return _kept_rows(grid) if few else _make_rows(grid, batch)


@lru_cache(maxsize=16)  # of the stages of two sizes, with shifts and without
def _kept_rows(grid: WindowGrid) -> WindowRows:
    with torch.inference_mode(False):
        return _make_rows(grid, 1)


def _make_rows(grid: WindowGrid, batch: int) -> WindowRows:
    tokens = grid.height * grid.width
    row = _rolled(grid.padded_height, grid.shift_size[0])
    column = _rolled(grid.padded_width, grid.shift_size[1])
    token = row[:, None] * grid.width + column
    token.masked_fill_((row >= grid.height)[:, None] | (column >= grid.width), -1)
    windows = partition_windows(token[None, :, :, None], grid)
    windows = windows.view(grid.rows, grid.columns, grid.tokens_per_window)

    pieces, kinds = [], []
    for row_slice, row_forbidden in _border(grid, axis=0):
        for column_slice, column_forbidden in _border(grid, axis=1):
            piece = windows[row_slice, column_slice].flatten()
            if len(piece) > 0:
                pieces.append(_repeat_for_images(piece, batch, tokens))
                kinds.append(
                    (
                        len(pieces[-1]) // grid.tokens_per_window,
                        _either(row_forbidden, column_forbidden),
                    )
                )
    token = torch.cat(pieces)
    is_padding = token < 0
    stands = torch.nonzero(~is_padding).view(-1)
    position = torch.empty(batch * tokens, dtype=torch.int64, device="cpu")
    position[token[stands]] = stands
    return WindowRows(token.clamp_(min=0), torch.nonzero(is_padding).view(-1), position, kinds)


def _rolled(length: int, shift: int) -> Tensor:
    return (torch.arange(length, device="cpu") + shift) % length


def _border(grid: WindowGrid, axis: int) -> list[tuple[slice, Tensor | None]]:
    """Rows (columns) of windows without and with forbidden pairs, and which pairs these are."""
    shift = grid.shift_size[axis]
    if shift == 0:
        return [(slice(None), None)]
    local = torch.arange(grid.tokens_per_window, device="cpu")
    width = grid.window_size[1]
    local = local // width if axis == 0 else local % width
    rolled = local >= grid.window_size[axis] - shift
    return [(slice(None, -1), None), (slice(-1, None), rolled[:, None] != rolled)]


def _either(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _repeat_for_images(token: Tensor, batch: int, tokens: int) -> Tensor:
    if batch == 1:
        return token
    offset = torch.arange(batch, device="cpu")[:, None] * tokens
    return torch.where(token < 0, token, token + offset).flatten()
