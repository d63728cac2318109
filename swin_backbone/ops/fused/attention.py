"""The attention kernels as operators of torch.

torch 2.4 reads the operators' schemas from annotations that are types, not strings, and spells
lists ``typing.List``.
"""

from typing import List, Optional  # noqa: UP035

import torch
import triton
from torch import Tensor

from ..kernels.attention import attention_backward, attention_forward, bias_table_gradient
from ..windows import WindowGrid
from .launch import empty, precision

#: Queries that a program holds at once; larger windows are cut into blocks of queries.
QUERY_BLOCK = 64
#: Programs that the kernels are cut into, where there are enough windows.
FORWARD_PROGRAMS = 4096
BACKWARD_PROGRAMS = 1056
#: Warps of a program, and blocks in flight, for windows of at most 64 tokens and larger ones.
WARPS = {"forward": (4, 8), "backward": (4, 8)}
STAGES = {"forward": 2, "backward": 1}

_Sizes = List[int]  # noqa: UP006  (window rows, columns, shift rows, columns)
_Maybe = Optional[Tensor]  # noqa: UP045


def attend(
    qkv: Tensor,
    table: Tensor,
    padding_qkv: _Maybe,
    logit_scale: _Maybe,
    valid_sizes: _Maybe,
    seed: _Maybe,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> Tensor:
    """Launch the forward kernel; arguments as of :func:`window_attention`."""
    plan = _Plan(qkv, table, sizes, FORWARD_PROGRAMS, "forward")
    out = empty(qkv, *qkv.shape[:3], qkv.shape[3] // 3)
    attention_forward[(plan.runs, plan.heads, plan.blocks)](
        qkv, table, _or(padding_qkv, qkv), _or(logit_scale, table), _or(valid_sizes, table),
        _or(seed, table), out, scale, dropout_p, *plan.arguments, **plan.constants,
        HAS_PADDING=padding_qkv is not None, COSINE=logit_scale is not None,
        MASKED=valid_sizes is not None, DROPOUT=dropout_p > 0, PRECISION=precision(qkv.dtype),
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    return out


def attention_gradients(
    grad_out: Tensor,
    qkv: Tensor,
    table: Tensor,
    padding_qkv: _Maybe,
    logit_scale: _Maybe,
    valid_sizes: _Maybe,
    seed: _Maybe,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
    sum_all: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the backward kernels.

    Args:
        grad_out: gradient for the attended map, contiguous.
        sum_all: the third gradient is that of a bias that is part of every token's queries, keys
            and values, and not only of those of tokens that fill windows.

    Returns:
        Gradients for ``qkv``, ``table``, ``padding_qkv`` and ``logit_scale``, the last three in
        float32; of no meaning for those that are ``None``.
    """
    plan = _Plan(qkv, table, sizes, BACKWARD_PROGRAMS, "backward")
    heads, keys = plan.heads, plan.constants["KEYS"]
    rows, channels = plan.blocks * plan.constants["QUERIES"], plan.constants["CHANNELS"]
    grad_qkv = torch.empty_like(qkv)
    bias_shares = empty(qkv, plan.runs, heads, rows, keys, dtype=torch.float32)
    if plan.blocks > 1:
        bias_shares.zero_()
    padding_shares = empty(qkv, plan.runs, heads, 3, channels, dtype=torch.float32)
    scale_shares = empty(qkv, plan.runs, heads, dtype=torch.float32)
    attention_backward[(plan.runs, heads)](
        qkv, table, _or(padding_qkv, qkv), _or(logit_scale, table), _or(valid_sizes, table),
        _or(seed, table), grad_out, grad_qkv, bias_shares, padding_shares, scale_shares, scale,
        dropout_p, *plan.arguments, **plan.constants, BLOCKS=plan.blocks,
        HAS_PADDING=padding_qkv is not None, COSINE=logit_scale is not None,
        MASKED=valid_sizes is not None, DROPOUT=dropout_p > 0, SUM_ALL=sum_all,
        PRECISION=precision(qkv.dtype), num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    grad_table = empty(table, *table.shape, dtype=torch.float32)
    bias_table_gradient[(triton.cdiv(table.shape[0], 16), heads)](
        bias_shares.sum(0), grad_table, WINDOW_H=sizes[0], WINDOW_W=sizes[1], HEADS=heads,
        QUERIES=rows, KEYS=keys, OFFSETS=16,
    )  # fmt: skip
    has_padding = padding_qkv is not None or sum_all
    grad_padding = padding_shares.sum(0)[:, :, : plan.constants["HEAD"]].transpose(0, 1).flatten()
    grad_scale = scale_shares.sum(0) if logit_scale is not None else empty(qkv, 0)
    return grad_qkv, grad_table, grad_padding if has_padding else empty(qkv, 0), grad_scale


@torch.library.custom_op("swin_backbone::window_attention", mutates_args=())
def window_attention(
    qkv: Tensor,
    table: Tensor,
    padding_qkv: _Maybe,
    logit_scale: _Maybe,
    valid_sizes: _Maybe,
    seed: _Maybe,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> Tensor:
    """Attend within shifted windows.

    Args:
        qkv: (B, H, W, 3 * C), contiguous.
        table: ((2 M_h - 1) (2 M_w - 1), heads) relative position bias, contiguous.
        padding_qkv: (3 * C,) of a token that only fills a window; ``None`` for zeros.
        logit_scale: (heads,) factors of cosine attention; ``None`` for scaled dot products.
        valid_sizes: (B, 2) int32, rows and columns of each image that are keys; ``None`` for all.
        seed: (1,) int64, for dropout; on the device, so that a graph can be replayed with another.
        sizes: window rows and columns, shift rows and columns, in tokens.
        scale: factor on q k^T, without ``logit_scale``.
        dropout_p: probability with which an attention weight is dropped.

    Returns:
        (B, H, W, C) in the dtype of ``qkv``.
    """
    return attend(
        qkv, table, padding_qkv, logit_scale, valid_sizes, seed, sizes, scale, dropout_p
    )  # fmt: skip


@window_attention.register_fake
def _(qkv, table, padding_qkv, logit_scale, valid_sizes, seed, sizes, scale, dropout_p):
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


@torch.library.custom_op("swin_backbone::window_attention_backward", mutates_args=())
def window_attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    table: Tensor,
    padding_qkv: _Maybe,
    logit_scale: _Maybe,
    valid_sizes: _Maybe,
    seed: _Maybe,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`window_attention` for its first four arguments, see
    :func:`attention_gradients`."""
    return attention_gradients(
        grad_out, qkv, table, padding_qkv, logit_scale, valid_sizes, seed, sizes, scale, dropout_p
    )


@window_attention_backward.register_fake
def _(grad_out, qkv, table, padding_qkv, logit_scale, valid_sizes, seed, sizes, scale, dropout_p):
    wide = {"dtype": torch.float32}
    return (
        torch.empty_like(qkv),
        table.new_empty(table.shape, **wide),
        qkv.new_empty(qkv.shape[-1], **wide) if padding_qkv is not None else qkv.new_empty(0),
        qkv.new_empty(table.shape[1], **wide) if logit_scale is not None else qkv.new_empty(0),
    )


def _save(ctx, inputs, output):
    *tensors, ctx.sizes, ctx.scale, ctx.dropout_p = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_out):
    tensors = ctx.saved_tensors
    grads = window_attention_backward(
        grad_out.contiguous(), *tensors, ctx.sizes, ctx.scale, ctx.dropout_p
    )
    grads = [
        grad.to(tensor.dtype) if tensor is not None else None
        for grad, tensor in zip(grads, tensors, strict=False)
    ]
    return *grads, None, None, None, None, None


window_attention.register_autograd(_differentiate, setup_context=_save)


def _or(tensor: _Maybe, stand_in: Tensor) -> Tensor:
    """A pointer for an argument that a kernel is compiled not to read."""
    return stand_in if tensor is None else tensor


class _Plan:
    """How one call is cut into programs.

    Attributes:
        runs: runs of windows, the first axis of the grid.
        heads: the second.
        blocks: blocks of queries in a window, the third (forward) or a loop (backward).
        arguments: sizes that may change from call to call without compiling anew.
        constants: sizes that a kernel is compiled for.
    """

    def __init__(self, qkv: Tensor, table: Tensor, sizes: _Sizes, programs: int, direction: str):
        batch, height, width, channels = qkv.shape
        grid = WindowGrid(height, width, (sizes[0], sizes[1]), (sizes[2], sizes[3]))
        self.heads, tokens = table.shape[1], grid.tokens_per_window
        windows = batch * grid.rows * grid.columns
        head = channels // (3 * self.heads)
        keys = max(16, triton.next_power_of_2(tokens))
        queries = min(keys, QUERY_BLOCK)
        windows_per_program = triton.cdiv(windows * self.heads, programs)
        self.blocks = triton.cdiv(tokens, queries)
        self.runs = triton.cdiv(windows, windows_per_program)
        self.warps = WARPS[direction][keys > 64]
        self.stages = STAGES[direction]
        self.arguments = (windows, windows_per_program, grid.rows, grid.columns, height, width)
        self.constants = {
            "HEADS": self.heads,
            "HEAD": head,
            "WINDOW_H": sizes[0],
            "WINDOW_W": sizes[1],
            "SHIFT_H": sizes[2],
            "SHIFT_W": sizes[3],
            "QUERIES": queries,
            "KEYS": keys,
            "CHANNELS": max(16, triton.next_power_of_2(head)),
        }
