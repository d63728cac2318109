"""Triton kernels for GPUs. They run on the CPU too, in Triton's interpreter, to be tested."""

from __future__ import annotations

import os
from importlib import util

import torch
from torch import Tensor

from . import triton
from .geometry.windows import as_kernels_read
from .reference.window_steps import FEATURES, AttentionInputs, Backend
from .watched import why_hidden

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_TOKENS = 256
MAX_HEAD_DIM = 128
#: Offsets within an image are 32 bit integers.
MAX_ELEMENTS = 2**31 - 1

# Found out once: torch.compile cannot trace the questions, and Triton too reads its variable once.
HAS_TRITON = util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def why_not_device(x: Tensor) -> str | None:
    """Why no kernel can run where ``x`` lies, or ``None`` if they can."""
    if not HAS_TRITON:
        return "triton is not installed"
    if not (x.is_cuda or INTERPRETED):
        return f"needs a CUDA device (or TRITON_INTERPRET=1), got {x.device.type}"
    return None if torch.compiler.is_compiling() else why_hidden(x)


def why_not_windows(dtype: torch.dtype, window_size: tuple[int, int], head_dim: int) -> str | None:
    """Why windows of ``window_size`` tokens do not fit on chip, or ``None`` if they do."""
    tokens = window_size[0] * window_size[1]
    if tokens > MAX_TOKENS:
        return f"windows have at most {MAX_TOKENS} tokens, got {tokens}"
    if head_dim > MAX_HEAD_DIM:
        return f"heads have at most {MAX_HEAD_DIM} channels, got {head_dim}"
    if dtype == torch.float32 and head_dim > MAX_HEAD_DIM // 2 and tokens > MAX_TOKENS // 2:
        return f"float32 keys of {tokens} tokens and {head_dim} channels do not fit on chip"
    return None


def why_not_tensors(qkv: Tensor, num_heads: int, window_size: tuple[int, int]) -> str | None:
    """Why the kernels cannot run queries, keys and values (..., 3 * C), or ``None``."""
    reason = why_not_device(qkv)
    if reason is not None:
        return reason
    if qkv.dtype not in DTYPES:
        return f"computes in {', '.join(map(str, DTYPES))}, got {qkv.dtype}"
    if qkv.shape[1:].numel() > MAX_ELEMENTS:
        return f"an image has at most {MAX_ELEMENTS} elements of qkv, got {qkv.shape[1:].numel()}"
    return why_not_windows(qkv.dtype, window_size, qkv.shape[-1] // (3 * num_heads))


def _why_not(inputs: AttentionInputs) -> str | None:
    return why_not_tensors(inputs.qkv, inputs.num_heads, inputs.grid.window_size)


def dropout_seed(dropout_p: float, device: torch.device) -> Tensor | None:
    """Where a kernel's random numbers begin; drawn on the device, from torch's generator."""
    return torch.randint(2**31 - 1, (1,), device=device) if dropout_p > 0 else None


def run_kernels(
    qkv: Tensor,
    bias_table: Tensor,
    padding_qkv: Tensor | None,
    logit_scale: Tensor | None,
    valid_sizes: Tensor | None,
    packed: Tensor | None,
    sizes: list[int],
    scale: float,
    dropout_p: float,
) -> Tensor:
    """Tensors in the layout that kernels read, to :func:`triton.attention_op.attend`, whose arguments
    these are."""
    if padding_qkv is not None:
        padding_qkv = padding_qkv.to(qkv.dtype).contiguous()
    return triton.attention_op.window_attention(
        qkv.contiguous(),
        bias_table.contiguous(),
        padding_qkv,
        None if logit_scale is None else logit_scale.contiguous(),
        as_kernels_read(valid_sizes),
        packed,
        dropout_seed(dropout_p, qkv.device),
        sizes,
        scale,
        dropout_p,
    )


def _run(inputs: AttentionInputs) -> Tensor:
    grid = inputs.grid
    return run_kernels(
        inputs.qkv,
        inputs.bias_table,
        inputs.padding_qkv if inputs.valid_sizes is None else None,
        inputs.logit_scale,
        inputs.valid_sizes,
        None,
        [*grid.window_size, *grid.shift_size],
        inputs.scale,
        inputs.dropout_p,
    )


TRITON = Backend(name="triton", why_not=_why_not, run=_run, features=frozenset(FEATURES))
