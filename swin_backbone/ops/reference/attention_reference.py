"""The readable implementation, which defines what the operation means."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry.windows import relative_position_bias
from .window_steps import AttentionInputs, forbidden_pairs, undo_windows, window_qkv


def run(inputs: AttentionInputs) -> Tensor:
    """(B, H, W, C)."""
    query, key, value = window_qkv(inputs)
    scores = (query * inputs.scale) @ key.transpose(-2, -1)
    scores = scores + relative_position_bias(inputs.bias_table, inputs.grid.window_size)
    forbidden = forbidden_pairs(inputs)
    if forbidden is not None:
        scores = scores.masked_fill(forbidden, float("-inf"))
    weights = torch.nn.functional.dropout(scores.softmax(dim=-1), inputs.dropout_p)
    attended = weights.to(value.dtype) @ value
    return undo_windows(attended, inputs)
