"""Triton kernels for GPUs. They run on the CPU too, in Triton's interpreter, to be tested."""

from __future__ import annotations

import os
from importlib import util

import torch
from torch import Tensor

from ...windows import relative_position_bias
from ..base import AttentionInputs, Backend

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_TOKENS = 256
MAX_HEAD_DIM = 128

# Found out once: torch.compile cannot trace the questions, and Triton too reads its variable once.
HAS_TRITON = util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _why_not(inputs: AttentionInputs) -> str | None:
    qkv = inputs.qkv
    if not HAS_TRITON:
        return "triton is not installed"
    if qkv.device.type != "cuda" and not INTERPRETED:
        return f"needs a CUDA device (or TRITON_INTERPRET=1), got {qkv.device.type}"
    if qkv.dtype not in DTYPES:
        return f"computes in {', '.join(map(str, DTYPES))}, got {qkv.dtype}"
    if inputs.grid.tokens_per_window > MAX_TOKENS:
        return f"windows have at most {MAX_TOKENS} tokens, got {inputs.grid.tokens_per_window}"
    head_dim = qkv.shape[-1] // (3 * inputs.num_heads)
    if head_dim > MAX_HEAD_DIM:
        return f"heads have at most {MAX_HEAD_DIM} channels, got {head_dim}"
    return None


def _run(inputs: AttentionInputs) -> Tensor:
    from .operator import window_attention  # needs triton, which may not be there

    qkv, grid = inputs.qkv, inputs.grid
    padding = inputs.padding_qkv
    padding = qkv.new_zeros(qkv.shape[-1]) if padding is None else padding
    if inputs.dropout_p > 0:
        seed = torch.randint(2**31 - 1, (1,), device=qkv.device)
    else:
        seed = torch.zeros(1, dtype=torch.int64, device=qkv.device)
    return window_attention(
        qkv.contiguous(),
        relative_position_bias(inputs.bias_table, grid.window_size).contiguous(),
        padding,
        seed,
        [*grid.window_size, *grid.shift_size],
        inputs.scale,
        inputs.dropout_p,
    )


TRITON = Backend(name="triton", why_not=_why_not, run=_run)
