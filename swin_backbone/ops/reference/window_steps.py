"""Checked inputs of attention, and its steps that most ways share: windows, masks, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.windows import (
    WindowGrid,
    clear_padding,
    merge_windows,
    partition_windows,
    shifted_window_mask,
    valid_windows,
)
from ..symbolic_shapes import has_symbols, known_zero


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
    logit_scale: Tensor | None = None
    valid_sizes: Tensor | None = None


def window_qkv(inputs: AttentionInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Padded, shifted and partitioned: what ``softmax(scale q k^T + bias) v`` takes.

    For cosine attention, queries and keys are normalised, and the queries hold ``logit_scale``.

    Returns:
        Three of (B, windows, heads, N, head dim) with N the tokens per window.
    """
    grid = inputs.grid
    if inputs.valid_sizes is None:
        qkv = pad_to_windows(inputs.qkv, inputs.padding_qkv, grid)
    else:  # so that nothing outside the valid area, be it NaN, reaches the inside
        qkv = pad_to_windows(clear_padding(inputs.qkv, inputs.valid_sizes), None, grid)
    if grid.is_shifted:
        qkv = torch.roll(qkv, [-shift for shift in grid.shift_size], dims=(1, 2))
    windows = partition_windows(qkv, grid)
    batch, count, tokens, channels = windows.shape
    head_dim = channels // (3 * inputs.num_heads)
    windows = windows.reshape(batch, count, tokens, 3, inputs.num_heads, head_dim)
    query, key, value = windows.permute(3, 0, 1, 4, 2, 5)
    if inputs.logit_scale is None:
        return query, key, value
    query = normalise(query) * inputs.logit_scale[:, None, None]
    return query.to(value.dtype), normalise(key).to(value.dtype), value


def forbidden_pairs(inputs: AttentionInputs) -> Tensor | None:
    """Which keys a query must not see, for the shift's sake or since they are not valid.

    Returns:
        bool, to be broadcast to (B, windows, heads, N, N), ``True`` for a forbidden pair;
        ``None`` if all pairs are allowed. A row never forbids all keys: where it would, in
        windows without a valid token, it allows all, so that the softmax is finite; the outputs
        of such queries are set to zero in the end.
    """
    grid, device = inputs.grid, inputs.qkv.device
    forbidden = shifted_window_mask(grid, device)[:, None] if grid.is_shifted else None
    if inputs.valid_sizes is None:
        return forbidden
    invalid_keys = ~valid_windows(grid, inputs.valid_sizes)[:, :, None, None, :]
    forbidden = invalid_keys if forbidden is None else forbidden | invalid_keys
    return forbidden & ~forbidden.all(dim=-1, keepdim=True)


def normalise(x: Tensor) -> Tensor:
    """To length one over the last axis, in float32 at least: float16 rounds eps to zero."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.nn.functional.normalize(x, dim=-1, eps=1e-12)


def undo_windows(attended: Tensor, inputs: AttentionInputs) -> Tensor:
    """Windows (B, windows, heads, N, head dim) back to the unpadded map (B, H, W, C)."""
    grid = inputs.grid
    x = merge_windows(attended.transpose(2, 3).flatten(-2), grid)
    if grid.is_shifted:
        x = torch.roll(x, grid.shift_size, dims=(1, 2))
    x = _crop(x, grid)
    return clear_padding(x, inputs.valid_sizes)


def _crop(x: Tensor, grid: WindowGrid) -> Tensor:
    if not has_symbols(x):
        return x[:, : grid.height, : grid.width].contiguous()
    # The strides of a slice tell whether it is all of the map, and a trace would keep the answer.
    row, column = (torch.arange(n, device=x.device) for n in (grid.height, grid.width))
    return x.index_select(1, row).index_select(2, column)


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
    if has_symbols(qkv):  # a trace would keep whether there are none
        padded = torch.nn.functional.pad(qkv, (0, 0, 0, right, 0, bottom))
        row = torch.arange(grid.padded_height, device=qkv.device) < grid.height
        column = torch.arange(grid.padded_width, device=qkv.device) < grid.width
        return torch.where((row[:, None] & column)[..., None], padded, fill)
    batch, _, _, channels = qkv.shape
    right_fill = fill.expand(batch, grid.height, right, channels)
    bottom_fill = fill.expand(batch, bottom, grid.padded_width, channels)
    return torch.cat([torch.cat([qkv, right_fill], dim=2), bottom_fill], dim=1)
