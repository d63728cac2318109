"""What a backend gets, and what it has to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..symbolic import contiguous, known_zero
from ..windows import WindowGrid, merge_windows, partition_windows


@dataclass(frozen=True)
class AttentionInputs:
    """Checked arguments of one call of :func:`swin_backbone.ops.shifted_window_attention`."""

    qkv: Tensor
    bias_table: Tensor
    padding_qkv: Tensor | None
    grid: WindowGrid
    num_heads: int
    scale: float
    dropout_p: float


class Backend(NamedTuple):
    """One implementation of the operation.

    Attributes:
        name: what users write in ``backend=``.
        why_not: why these inputs cannot run here, or ``None`` if they can.
        run: (B, H, W, C) from the inputs.
    """

    name: str
    why_not: Callable[[AttentionInputs], str | None]
    run: Callable[[AttentionInputs], Tensor]


def window_qkv(inputs: AttentionInputs) -> Tensor:
    """Padded, shifted and partitioned queries, keys and values.

    Returns:
        (3, B, windows, heads, N, head dim) with N the tokens per window.
    """
    grid = inputs.grid
    qkv = pad_to_windows(inputs.qkv, inputs.padding_qkv, grid)
    if grid.is_shifted:
        qkv = torch.roll(qkv, [-shift for shift in grid.shift_size], dims=(1, 2))
    windows = partition_windows(qkv, grid)
    batch, count, tokens, channels = windows.shape
    head_dim = channels // (3 * inputs.num_heads)
    windows = windows.reshape(batch, count, tokens, 3, inputs.num_heads, head_dim)
    return windows.permute(3, 0, 1, 4, 2, 5)


def undo_windows(attended: Tensor, inputs: AttentionInputs) -> Tensor:
    """Windows (B, windows, heads, N, head dim) back to the unpadded map (B, H, W, C)."""
    grid = inputs.grid
    x = merge_windows(attended.transpose(2, 3).flatten(-2), grid)
    if grid.is_shifted:
        x = torch.roll(x, grid.shift_size, dims=(1, 2))
    return contiguous(x[:, : grid.height, : grid.width])


def pad_to_windows(qkv: Tensor, padding_qkv: Tensor | None, grid: WindowGrid) -> Tensor:
    """Fill a map (B, H, W, 3*C) up to whole windows, at the bottom and right.

    The fill is the projection of a zero token, which is the projection's bias: padding after
    the projection gives what padding before it gives, without projecting the padding.
    """
    bottom, right = grid.padded_height - grid.height, grid.padded_width - grid.width
    if known_zero(bottom, right):
        return qkv
    if padding_qkv is None:
        return torch.nn.functional.pad(qkv, (0, 0, 0, right, 0, bottom))
    fill = padding_qkv.to(qkv.dtype)
    batch, _, _, channels = qkv.shape
    right_fill = fill.expand(batch, grid.height, right, channels)
    bottom_fill = fill.expand(batch, bottom, grid.padded_width, channels)
    return torch.cat([torch.cat([qkv, right_fill], dim=2), bottom_fill], dim=1)
