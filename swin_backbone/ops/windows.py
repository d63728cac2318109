"""Geometry of shifted windows: padding, partition, regions and relative positions.

Everything here follows from the size of a token map, the window and the shift. Nothing is
stored between calls, so a map of any size can follow a map of any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .symbolic import contiguous


@dataclass(frozen=True)
class WindowGrid:
    """How windows of one size lie on a token map of one size.

    Args:
        height: rows of the unpadded map, in tokens.
        width: columns of the unpadded map, in tokens.
        window_size: rows and columns of a window, in tokens.
        shift_size: rows and columns by which the windows are displaced towards the bottom
            right; ``0 <= shift < window`` on each axis.
    """

    height: int
    width: int
    window_size: tuple[int, int]
    shift_size: tuple[int, int] = (0, 0)

    @property
    def rows(self) -> int:
        """Windows from top to bottom."""
        return (self.height + self.window_size[0] - 1) // self.window_size[0]

    @property
    def columns(self) -> int:
        """Windows from left to right."""
        return (self.width + self.window_size[1] - 1) // self.window_size[1]

    @property
    def padded_height(self) -> int:
        return self.rows * self.window_size[0]

    @property
    def padded_width(self) -> int:
        return self.columns * self.window_size[1]

    @property
    def tokens_per_window(self) -> int:
        return self.window_size[0] * self.window_size[1]

    @property
    def is_shifted(self) -> bool:
        return self.shift_size != (0, 0)


def partition_windows(x: Tensor, grid: WindowGrid) -> Tensor:
    """Cut a padded map into windows.

    Args:
        x: (B, padded height, padded width, C).
        grid: where the windows lie.

    Returns:
        (B, rows * columns, tokens per window, C), windows and tokens in row-major order.
    """
    window_height, window_width = grid.window_size
    batch, channels = x.shape[0], x.shape[-1]
    x = x.reshape(batch, grid.rows, window_height, grid.columns, window_width, channels)
    return contiguous(x.permute(0, 1, 3, 2, 4, 5)).view(
        batch, grid.rows * grid.columns, grid.tokens_per_window, channels
    )


def merge_windows(windows: Tensor, grid: WindowGrid) -> Tensor:
    """Put windows back into a padded map: the inverse of :func:`partition_windows`.

    Args:
        windows: (B, rows * columns, tokens per window, C).
        grid: where the windows lie.

    Returns:
        (B, padded height, padded width, C).
    """
    window_height, window_width = grid.window_size
    batch, channels = windows.shape[0], windows.shape[-1]
    x = windows.reshape(batch, grid.rows, grid.columns, window_height, window_width, channels)
    return contiguous(x.permute(0, 1, 3, 2, 4, 5)).view(
        batch, grid.padded_height, grid.padded_width, channels
    )


def shifted_window_mask(grid: WindowGrid, device: torch.device | str = "cpu") -> Tensor:
    """Which pairs of tokens of a shifted window were not neighbours before the cyclic shift.

    The shift rolls the first ``shift`` rows (columns) to the far end. In the last row (column)
    of windows they meet tokens of the other border, and the two must not see each other (Swin
    Transformer, section 3.2, "Efficient batch computation"). So along each axis it is enough to
    know whether a token was rolled over the border.

    Args:
        grid: where the windows lie.
        device: where to build the mask.

    Returns:
        bool (rows * columns, N, N) with N the tokens per window; ``True`` forbids the pair.
    """
    row = torch.arange(grid.padded_height, device=device)
    column = torch.arange(grid.padded_width, device=device)
    row_rolled = row >= grid.padded_height - grid.shift_size[0]
    column_rolled = column >= grid.padded_width - grid.shift_size[1]
    region = 2 * row_rolled[:, None].int() + column_rolled[None, :].int()
    region = partition_windows(region[None, :, :, None], grid)[0, :, :, 0]
    return region[:, :, None] != region[:, None, :]


def relative_position_index(
    window_size: tuple[int, int], device: torch.device | str = "cpu"
) -> Tensor:
    """Row of the bias table for each pair (query, key) of a window.

    Args:
        window_size: rows M_h and columns M_w of a window, in tokens.
        device: where to build the index.

    Returns:
        int64 (N, N), N = M_h * M_w, values in ``[0, (2 M_h - 1) (2 M_w - 1))``. The offset
        (query - key) of (-M_h + 1, -M_w + 1) has row 0 (Swin Transformer, equation 4).
    """
    height, width = window_size
    token = torch.arange(height * width, device=device)
    row, column = token // width, token % width
    row_offset = row[:, None] - row[None, :] + height - 1
    column_offset = column[:, None] - column[None, :] + width - 1
    return row_offset * (2 * width - 1) + column_offset


def relative_position_bias(table: Tensor, window_size: tuple[int, int]) -> Tensor:
    """Spread a bias table over all pairs of tokens of a window.

    Args:
        table: ((2 M_h - 1) (2 M_w - 1), heads).
        window_size: M_h and M_w, in tokens.

    Returns:
        (heads, N, N) with N = M_h * M_w, in the dtype of the table.
    """
    tokens = window_size[0] * window_size[1]
    index = relative_position_index(window_size, table.device)
    return table[index.reshape(-1)].reshape(tokens, tokens, -1).permute(2, 0, 1)
