"""PyTorch's scaled dot product attention on the windows: a good choice on the CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..windows import relative_position_bias
from .base import FEATURES, AttentionInputs, Backend, forbidden_pairs, undo_windows, window_qkv


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
    """Bias, and minus infinity for forbidden pairs: (1 or B * windows, heads, N, N)."""
    bias = relative_position_bias(inputs.bias_table, inputs.grid.window_size).to(inputs.qkv.dtype)
    forbidden = forbidden_pairs(inputs)
    if forbidden is None:
        return bias[None]
    bias = bias.masked_fill(forbidden, float("-inf"))
    batch = inputs.qkv.shape[0]
    return bias.expand(batch, *bias.shape[-4:]).flatten(0, 1)


SDPA = Backend(name="sdpa", why_not=lambda inputs: None, run=_run, features=frozenset(FEATURES))
