"""PyTorch's scaled dot product attention on the windows: a good choice on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..geometry.windows import relative_position_bias
from .window_steps import AttentionInputs, forbidden_pairs, undo_windows, window_qkv


def run(inputs: AttentionInputs) -> Tensor:
    """(B, H, W, C)."""
    query, key, value = window_qkv(inputs)
    batch, count = query.shape[:2]
    with _kernels(inputs):
        attended = F.scaled_dot_product_attention(
            query.flatten(0, 1),
            key.flatten(0, 1),
            value.flatten(0, 1),
            attn_mask=_additive_mask(inputs),
            dropout_p=inputs.dropout_p,
            scale=inputs.scale,
        )
    return undo_windows(attended.unflatten(0, (batch, count)), inputs)


def _kernels(inputs: AttentionInputs) -> AbstractContextManager:
    """Those on the CPU whose gradients can be differentiated, where there are any gradients.

    PyTorch chooses them by itself wherever the bias table learns, as it does in training.
    """
    qkv = inputs.qkv
    learns = torch.is_grad_enabled() and qkv.requires_grad and qkv.device.type == "cpu"
    if not learns or inputs.bias_table.requires_grad or torch.compiler.is_compiling():
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def _additive_mask(inputs: AttentionInputs) -> Tensor:
    """Bias, and minus infinity for forbidden pairs: (1 or B * windows, heads, N, N)."""
    bias = relative_position_bias(inputs.bias_table, inputs.grid.window_size).to(inputs.qkv.dtype)
    forbidden = forbidden_pairs(inputs)
    if forbidden is None:
        return bias[None]
    bias = bias.masked_fill(forbidden, float("-inf"))
    batch = inputs.qkv.shape[0]
    return bias.expand(batch, *bias.shape[-4:]).flatten(0, 1)
