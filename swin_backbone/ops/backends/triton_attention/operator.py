"""The kernels as operators of torch: launch, autograd, shapes without data.

torch 2.4 reads the operators' schemas from annotations that are types, not strings, and spells
lists ``typing.List``.
"""

from typing import List  # noqa: UP035

import torch
import triton
from torch import Tensor

from ...windows import WindowGrid
from .kernels import attention_backward, attention_forward

#: Queries that a program holds at once; larger windows are cut into blocks of queries.
QUERY_BLOCK = 64
#: Programs a kernel is cut into, where there are enough windows: some waves of a large GPU.
PROGRAMS = 2048

_Sizes = List[int]  # noqa: UP006  (window rows, columns, shift rows, columns)


@torch.library.custom_op("swin_backbone::window_attention", mutates_args=())
def window_attention(
    qkv: Tensor,
    bias: Tensor,
    padding_qkv: Tensor,
    seed: Tensor,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> Tensor:
    """Attend within shifted windows.

    Args:
        qkv: (B, H, W, 3 * C), contiguous.
        bias: (heads, N, N) relative position bias of each pair of a window's tokens.
        padding_qkv: (3 * C,) of a token that only fills a window.
        seed: (1,) int64, for dropout; on the device, so that a graph can be replayed with another.
        sizes: window rows and columns, shift rows and columns, in tokens.
        scale: factor on q k^T.
        dropout_p: probability with which an attention weight is dropped.

    Returns:
        (B, H, W, C) in the dtype of ``qkv``.
    """
    plan = _Plan(qkv, bias, sizes)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    grid = (plan.runs, plan.heads, plan.blocks)
    attention_forward[grid](
        qkv, bias, padding_qkv, seed, out, scale, dropout_p, *plan.arguments, **plan.constants,
        DROPOUT=dropout_p > 0, PRECISION=plan.precision, num_warps=plan.warps,
    )  # fmt: skip
    return out


@window_attention.register_fake
def _(qkv, bias, padding_qkv, seed, sizes, scale, dropout_p):
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


@torch.library.custom_op("swin_backbone::window_attention_backward", mutates_args=())
def window_attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    bias: Tensor,
    padding_qkv: Tensor,
    seed: Tensor,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`window_attention` for ``qkv``, ``bias`` (float32) and ``padding_qkv``
    (float32)."""
    plan = _Plan(qkv, bias, sizes)
    tokens, heads, head = bias.shape[-1], plan.heads, plan.constants["HEAD"]
    grad_qkv = torch.empty_like(qkv)
    rows = plan.blocks * plan.constants["QUERIES"]
    make = qkv.new_zeros if plan.blocks > 1 else qkv.new_empty
    shares = make(plan.runs, heads, rows, plan.constants["KEYS"], dtype=torch.float32)
    channels = plan.constants["CHANNELS"]
    padding_shares = qkv.new_empty(plan.runs, heads, 2, channels, dtype=torch.float32)
    attention_backward[(plan.runs, heads)](
        qkv, bias, padding_qkv, seed, grad_out, grad_qkv, shares, padding_shares, scale, dropout_p,
        *plan.arguments, **plan.constants, BLOCKS=plan.blocks, DROPOUT=dropout_p > 0,
        PRECISION=plan.precision, num_warps=plan.warps,
    )  # fmt: skip
    grad_bias = shares.sum(0)[:, :tokens, :tokens].contiguous()
    grad_padding = padding_shares.sum(0)[:, :, :head].transpose(0, 1)  # (2, heads, head)
    grad_padding = torch.cat([torch.zeros_like(grad_padding[:1]), grad_padding]).flatten()
    return grad_qkv, grad_bias, grad_padding


@window_attention_backward.register_fake
def _(grad_out, qkv, bias, padding_qkv, seed, sizes, scale, dropout_p):
    return (
        torch.empty_like(qkv),
        bias.new_empty(bias.shape, dtype=torch.float32),
        padding_qkv.new_empty(padding_qkv.shape, dtype=torch.float32),
    )


def _save(ctx, inputs, output):
    *tensors, ctx.sizes, ctx.scale, ctx.dropout_p = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_out):
    qkv, bias, padding_qkv, seed = ctx.saved_tensors
    grad_qkv, grad_bias, grad_padding = window_attention_backward(
        grad_out.contiguous(), qkv, bias, padding_qkv, seed, ctx.sizes, ctx.scale, ctx.dropout_p
    )
    grads = grad_qkv, grad_bias.to(bias.dtype), grad_padding.to(padding_qkv.dtype)
    return *grads, None, None, None, None


window_attention.register_autograd(_differentiate, setup_context=_save)


class _Plan:
    """How one call is cut into programs.

    Attributes:
        runs: runs of windows, the first axis of the grid.
        heads: the second.
        blocks: blocks of queries in a window, the third (forward) or a loop (backward).
        arguments: sizes that may change from call to call without compiling anew.
        constants: sizes that a kernel is compiled for.
    """

    def __init__(self, qkv: Tensor, bias: Tensor, sizes: _Sizes):
        batch, height, width, channels = qkv.shape
        grid = WindowGrid(height, width, (sizes[0], sizes[1]), (sizes[2], sizes[3]))
        self.heads, tokens = bias.shape[0], bias.shape[-1]
        windows = batch * grid.rows * grid.columns
        head = channels // (3 * self.heads)
        keys = max(16, triton.next_power_of_2(tokens))
        queries = min(keys, QUERY_BLOCK)
        windows_per_program = max(1, windows * self.heads // PROGRAMS)
        self.blocks = triton.cdiv(tokens, queries)
        self.runs = triton.cdiv(windows, windows_per_program)
        self.warps = 4 if keys <= 64 else 8
        exact = qkv.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
        self.precision = "ieee" if exact else "tf32"
        self.arguments = (windows, windows_per_program, grid.rows, grid.columns, height, width)
        self.constants = {
            "HEADS": self.heads,
            "HEAD": head,
            "WINDOW_H": sizes[0],
            "WINDOW_W": sizes[1],
            "SHIFT_H": sizes[2],
            "SHIFT_W": sizes[3],
            "TOKENS": tokens,
            "QUERIES": queries,
            "KEYS": keys,
            "CHANNELS": max(16, triton.next_power_of_2(head)),
        }
