"""Geometry of shifted windows: padding, partition, regions and relative positions.

Everything here follows from the size of a token map, the window and the shift. Nothing is
stored between calls, so a map of any size can follow a map of any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..argument_checks import INT32_MAX, OneOf, two_integers
from ..symbolic_shapes import contiguous


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


#: What becomes of windows on a map that is no larger than they are, see :func:`fit_window`.
SMALL_MAP_RULES = ("shift", "no_shift", "shrink", "shrink_square")
_SMALL_MAP_RULE = OneOf(SMALL_MAP_RULES)


def fit_window(
    size: tuple[int, int] | None,
    window_size: tuple[int, int],
    shift_size: tuple[int, int],
    rule: str = "shift",
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and shift for a map of one size; implementations differ where the map is small.

    Args:
        size: rows and columns of the map, in tokens; ``None`` for maps of many sizes, whose windows
            can depend on none.
        window_size: rows and columns of the window wanted.
        shift_size: rows and columns of the shift wanted.
        rule: ``'shift'``: as wanted, on any map. ``'no_shift'``: no shift along an axis on which
            one window covers the map. ``'shrink'``: there, moreover, the window has the map's
            size. ``'shrink_square'``: if a window covers the map's shorter side, no shift at all,
            and the window is a square of that side (Swin Transformer's original classifiers).

    Returns:
        Window and shift to use.

    Raises:
        ValueError: if the rule is unknown, or a number is out of range.
        TypeError: if ``size`` (but for ``'shift'``), ``window_size`` or ``shift_size`` are not two
            integers each.
    """
    if not isinstance(rule, str) or rule not in SMALL_MAP_RULES:  # compilers cannot trace the rest
        _SMALL_MAP_RULE("rule", rule)
    if size is not None:
        two_integers("size", size, 1)
    two_integers("window_size", window_size, 1)
    two_integers("shift_size", shift_size, 0)
    if rule == "shift":
        return window_size, shift_size
    if size is None:
        raise TypeError(f"size must be two integers for rule={rule!r}, got None")
    if rule == "shrink_square":
        side = min(size)
        if side > min(window_size):
            return window_size, shift_size
        return (side, side), (0, 0)
    covered = [length <= window for length, window in zip(size, window_size, strict=True)]
    shift = tuple(0 if c else s for c, s in zip(covered, shift_size, strict=True))
    if rule == "shrink":
        window_size = tuple(min(n, w) for n, w in zip(size, window_size, strict=True))
    return window_size, shift


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


def valid_tokens(height: int, width: int, valid_sizes: Tensor) -> Tensor:
    """Which tokens of a map belong to the image and not to the padding of its batch.

    Args:
        height: rows of the map, in tokens.
        width: columns of the map, in tokens.
        valid_sizes: (B, 2) rows and columns of each image, in tokens, at the top left.

    Returns:
        bool (B, height, width).
    """
    row = torch.arange(height, device=valid_sizes.device)
    column = torch.arange(width, device=valid_sizes.device)
    rows, columns = valid_sizes[:, 0, None], valid_sizes[:, 1, None]
    return (row < rows)[:, :, None] & (column < columns)[:, None, :]


def as_kernels_read(valid_sizes: Tensor | None) -> Tensor | None:
    """Valid sizes (B, 2) in the layout of kernels; a model's are in it already.

    Those on a device have not been looked at, since it would have to be waited for. A number below
    zero counts as zero there, and one beyond 2**31 - 1 as that, which is all of a map.
    """
    if valid_sizes is None or valid_sizes.dtype == torch.int32:
        return None if valid_sizes is None else valid_sizes.contiguous()
    return valid_sizes.long().clamp(0, INT32_MAX).int().contiguous()


def clear_padding(x: Tensor, valid_sizes: Tensor | None, channels_axis: int = -1) -> Tensor:
    """Set what lies outside the valid areas to zero, whatever it was.

    Args:
        x: (B, H, W, C), or (B, C, H, W) with ``channels_axis=1``.
        valid_sizes: (B, 2) rows and columns; ``None`` if all of ``x`` is valid.
        channels_axis: where the channels are.

    Returns:
        A tensor like ``x``, or ``x`` itself where there is nothing to clear.
    """
    if valid_sizes is None:
        return x
    height, width = x.shape[2:] if channels_axis == 1 else x.shape[1:3]
    return x.masked_fill(~valid_tokens(height, width, valid_sizes).unsqueeze(channels_axis), 0)


def valid_windows(grid: WindowGrid, valid_sizes: Tensor) -> Tensor:
    """Which tokens of each (shifted) window belong to the image.

    Args:
        grid: where the windows lie.
        valid_sizes: (B, 2) rows and columns of each image, in tokens. Tokens that only fill up
            windows are never valid.

    Returns:
        bool (B, rows * columns, N) with N the tokens per window.
    """
    valid = valid_tokens(grid.height, grid.width, valid_sizes)
    bottom, right = grid.padded_height - grid.height, grid.padded_width - grid.width
    valid = torch.nn.functional.pad(valid, (0, right, 0, bottom))
    if grid.is_shifted:
        valid = torch.roll(valid, [-shift for shift in grid.shift_size], dims=(1, 2))
    return partition_windows(valid[..., None], grid)[..., 0]


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


def relative_position_bias(
    table: Tensor, window_size: tuple[int, int], index: Tensor | None = None
) -> Tensor:
    """Spread a bias table over all pairs of tokens of a window.

    Args:
        table: ((2 M_h - 1) (2 M_w - 1), heads).
        window_size: M_h and M_w, in tokens.
        index: of :func:`relative_position_index`, where it is there already.

    Returns:
        (heads, N, N) with N = M_h * M_w, in the dtype of the table.
    """
    tokens = window_size[0] * window_size[1]
    if index is None:
        index = relative_position_index(window_size, table.device)
    return table[index.reshape(-1)].reshape(tokens, tokens, -1).permute(2, 0, 1)


def crop_bias_table(
    table: Tensor, window_size: tuple[int, int], smaller: tuple[int, int]
) -> Tensor:
    """The part of a bias table that a window no larger than its own needs.

    Args:
        table: ((2 M_h - 1) (2 M_w - 1), heads).
        window_size: M_h and M_w, in tokens.
        smaller: rows m_h and columns m_w of the window that needs it; at most M_h and M_w.

    Returns:
        ((2 m_h - 1) (2 m_w - 1), heads): the same value for the same offset.
    """
    if smaller == window_size:
        return table
    plane = table.unflatten(0, [2 * size - 1 for size in window_size])
    rows, columns = (slice(m - n, m + n - 1) for m, n in zip(window_size, smaller, strict=True))
    return plane[rows, columns].flatten(0, 1)


def log_spaced_offsets(
    window_size: tuple[int, int],
    reference_size: tuple[int, int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Relative coordinates on a logarithmic scale (Swin Transformer V2, section 3.3, equation 4).

    As the original's code computes them: offsets are scaled so that the farthest within the
    reference window are -8 and 8, then ``sign(x) log2(1 + |x|) / log2(8)``.

    Args:
        window_size: rows M_h and columns M_w of the window, in tokens.
        reference_size: rows and columns of the window that the scale refers to.
        device: where to build the coordinates.
        dtype: their dtype.

    Returns:
        ((2 M_h - 1) (2 M_w - 1), 2), in the order of a bias table's rows.
    """
    axes = []
    for size, reference in zip(window_size, reference_size, strict=True):
        offset = torch.arange(1 - size, size, device=device, dtype=dtype)
        offset = offset * (8 / max(reference - 1, 1))
        axes.append(offset.sign() * torch.log2(offset.abs() + 1) / 3)
    rows, columns = axes
    grid = (len(rows), len(columns))
    pairs = [rows[:, None].expand(grid), columns[None, :].expand(grid)]
    return torch.stack(pairs, dim=-1).flatten(0, 1)
