"""PyTorch's scaled dot product attention on the windows: a good choice on the CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..windows import relative_position_bias, shifted_window_mask
from .base import AttentionInputs, Backend, undo_windows, window_qkv


def _run(inputs: AttentionInputs) -> Tensor:
    query, key, value = window_qkv(inputs)
    batch, count = query.shape[:2]
    attended = F.scaled_dot_product_attention(
        query.flatten(0, 1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        attn_mask=_additive_mask(inputs),
        dropout_p=inputs.dropout_p,
        scale=inputs.scale,
    )
    return undo_windows(attended.unflatten(0, (batch, count)), inputs)


def _additive_mask(inputs: AttentionInputs) -> Tensor:
    """Bias, and minus infinity where the shift forbids: (1 or B * windows, heads, N, N)."""
    grid = inputs.grid
    bias = relative_position_bias(inputs.bias_table, grid.window_size).to(inputs.qkv.dtype)
    if not grid.is_shifted:
        return bias[None]
    forbidden = shifted_window_mask(grid, bias.device)
    bias = bias.masked_fill(forbidden[:, None], float("-inf"))
    batch = inputs.qkv.shape[0]
    return bias.expand(batch, *bias.shape).flatten(0, 1)


SDPA = Backend(name="sdpa", why_not=lambda inputs: None, run=_run)
