"""Attention by Triton kernels, from checked tensors of a batch of maps or of variable length.

The kernels need a GPU. They run on the CPU too, in Triton's interpreter, to be tested.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import triton
from .geometry.windows import as_kernels_read
from .reference.window_steps import AttentionInputs


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
    """Tensors in the layout that kernels read, to the operator of
    :mod:`swin_backbone.ops.triton.attention_op`, whose arguments these are."""
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


def run(inputs: AttentionInputs) -> Tensor:
    """(B, H, W, C)."""
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
