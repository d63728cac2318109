"""All V1 blocks of a stage in one step, for compilers, to which a step is what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import dispatch, triton
from .geometry.token_layout import TokenLayout
from .layer_parameters import LinearParameters, NormParameters, compute_dtype
from .path_scales import draw_path_scales
from .residual_branches import Windows
from .symbolic_shapes import ASKS_COMPILERS
from .torch_internals.exporting import is_exporting


class ResidualBlock(NamedTuple):
    """A block, as :mod:`.residual_branches` has its parts; ``drop_rate`` of both branches."""

    norm1: NormParameters
    qkv: LinearParameters
    bias_table: Tensor
    proj: LinearParameters
    windows: Windows
    norm2: NormParameters
    up: LinearParameters
    down: LinearParameters
    backend: str
    drop_rate: float = 0.0


def takes_stages(layout: TokenLayout) -> bool:
    """Whether there is anything to gain by :func:`residual_blocks`: where a compiler looks on
    (torch >= 2.8), of maps, and of nothing that runs elsewhere."""
    compiling = ASKS_COMPILERS and torch.compiler.is_compiling() and not is_exporting()
    return compiling and layout.packing is None


def residual_blocks(
    x: Tensor, blocks: Sequence[ResidualBlock], layout: TokenLayout
) -> Tensor | None:
    """What blocks make of ``x``, one after the other, each an attention branch and an MLP branch.

    Args:
        x: (B, H, W, C).
        blocks: all with a bias of queries, keys and values, or none.
        layout: of maps.

    Returns:
        A tensor like ``x``; ``None`` where not all blocks run by the same kernels.
    """
    for block in blocks:
        if block.windows.dropout_p > 0 or not _by_triton(x, block):
            return None
    parameters, integers, numbers, rates = [], [], [], []
    for norm1, qkv, table, proj, windows, norm2, up, down, _, rate in blocks:
        tensors = [*norm1[:2], *qkv, table.contiguous(), *proj, *norm2[:2], *up, *down]
        parameters += [tensor for tensor in tensors if tensor is not None]
        row = 2 * len(rates) if rate > 0 else -1
        integers += [*windows.window_size, *windows.shift_size, row]
        numbers += [norm1.eps, norm2.eps, windows.scale]
        rates += [rate] if rate > 0 else []
    x = x.contiguous()
    return triton.residual_blocks_op.residual_blocks(
        x, draw_path_scales(rates, x) if rates else None, parameters,
        layout.kernel_tables(blocks[0].windows.window_size, x.device)[0], compute_dtype(x),
        integers, numbers, torch.is_grad_enabled(),
    )  # fmt: skip


def _by_triton(x: Tensor, block: ResidualBlock) -> bool:
    hidden = block.up.weight.shape[0]
    return all(
        dispatch.residual_branch(name, x, block.backend, *options) == "triton"
        for name, options in (
            ("attention branch", (block.windows,)),
            ("MLP branch", (None, hidden)),
        )
    )
