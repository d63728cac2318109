"""Windows gathered by rows, a few at a time so that they stay in the cache: fast on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry.windows import relative_position_bias, relative_position_index
from ..kept_tables import remembered_tables
from ..reference.window_steps import AttentionInputs, normalise
from .chunked_attention import attend, attend_for_training
from .window_rows import window_rows


def run(inputs: AttentionInputs) -> Tensor:
    """(B, H, W, C)."""
    qkv, padding = inputs.qkv, inputs.padding_qkv
    # Computed in the dtype of qkv, whatever dtype autocast would choose.
    with torch.autocast("cpu", enabled=False):
        window_size = inputs.grid.window_size
        bias = relative_position_bias(inputs.bias_table, window_size, _kept_index(window_size))
        bias = bias.to(qkv.dtype).contiguous()  # a transposed one is slow to add
        padding = qkv.new_zeros(qkv.shape[-1]) if padding is None else padding.to(qkv.dtype)
        if inputs.logit_scale is not None:
            qkv, padding = (_for_cosines(t, inputs.logit_scale) for t in (qkv, padding))
        rows = window_rows(inputs.grid, qkv.shape[0])
        flat = qkv.reshape(-1, qkv.shape[-1])
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (qkv, bias, padding))
        if learns or inputs.dropout_p > 0:
            out = attend_for_training(flat, bias, padding, rows, inputs.scale, inputs.dropout_p)
        else:
            out = attend(flat, bias, padding, rows, inputs.scale)
        return out.view(*qkv.shape[:-1], -1)


@remembered_tables
def _kept_index(window_size: tuple[int, int]) -> Tensor:
    with torch.inference_mode(False):
        return relative_position_index(window_size, "cpu")


def _for_cosines(qkv: Tensor, logit_scale: Tensor) -> Tensor:
    """(..., 3 C) so that products of queries and keys are scaled cosines."""
    query, key, value = qkv.unflatten(-1, (3, len(logit_scale), -1)).unbind(-3)
    query = normalise(query) * logit_scale[:, None]
    return torch.stack([query.to(qkv.dtype), normalise(key).to(qkv.dtype), value], -3).flatten(-3)
