"""The readable implementation, which defines what the operation means."""

from __future__ import annotations

import torch
from torch import Tensor

from ..windows import relative_position_bias, shifted_window_mask
from .base import AttentionInputs, Backend, undo_windows, window_qkv


def _run(inputs: AttentionInputs) -> Tensor:
    grid = inputs.grid
    query, key, value = window_qkv(inputs)
    scores = (query * inputs.scale) @ key.transpose(-2, -1)
    scores = scores + relative_position_bias(inputs.bias_table, grid.window_size)
    if grid.is_shifted:
        forbidden = shifted_window_mask(grid, scores.device)
        scores = scores.masked_fill(forbidden[:, None], float("-inf"))
    weights = torch.nn.functional.dropout(scores.softmax(dim=-1), inputs.dropout_p)
    attended = weights.to(value.dtype) @ value
    return undo_windows(attended, inputs)


REFERENCE = Backend(name="reference", why_not=lambda inputs: None, run=_run)
