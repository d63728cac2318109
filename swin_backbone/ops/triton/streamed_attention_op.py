"""Launches of the attention kernels for windows of many tokens, whose keys pass by in blocks."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .attention_cut import (
    Cut,
    cut_windows,
    head_width,
    kind_of_call,
    modes,
    shape_of,
    stand_ins,
    work_of,
)
from .kernels.streamed_attention_kernels import (
    spread_bias,
    streamed_backward_keys,
    streamed_backward_queries,
    streamed_forward,
)
from .launch import Launch, remembered
from .partial_sums import Pairs
from .tuning import Work, config, tuned

#: Tokens that are handled at once, where they divide a window, and elsewhere: 12 x 12 tokens fill
#: five blocks of 32 by nine tenths, and three of 64 by three quarters.
BLOCK, SMALL_BLOCK = 64, 32
#: Bytes of a token's head up to which blocks are that large.
MOST_BYTES = 2**7
#: Bytes that the partial sums of pairs may take.
PAIR_BYTES = 2**26


def block_of(sizes: tuple[int, ...], channels: int, heads: int, dtype: torch.dtype) -> int:
    """Tokens that are handled at once."""
    wide = head_width(channels, heads) * dtype.itemsize > MOST_BYTES
    return SMALL_BLOCK if sizes[0] * sizes[1] % BLOCK or wide else BLOCK


def side_of(sizes: tuple[int, ...], block: int) -> int:
    """Tokens of a window, in whole blocks."""
    return triton.cdiv(sizes[0] * sizes[1], block) * block


def _work(kernel: str, shape: tuple[int, ...], heads: int, sizes, dtype: torch.dtype) -> Work:
    """For a launch cut for ``shape``, see :func:`.attention_cut.shape_of`, and ``sizes``."""
    small = block_of(tuple(sizes), shape[-1], heads, dtype) < BLOCK
    return work_of(f"{kernel}_small" if small else kernel, shape, sizes, dtype)


def _forward_work(qkv, table, padding, scales, valid, packed, seed, sizes, *others) -> Work:
    return _work("streamed_forward", shape_of(qkv, packed), table.shape[1], sizes, qkv.dtype)


@remembered
def _spread_launch(heads, sizes, block, side, both) -> Launch:
    constants = {"HEADS": heads, "WINDOW_H": sizes[0], "WINDOW_W": sizes[1], "BLOCK": block}
    constants |= {"SIDE": side, "BOTH": both}
    blocks = side // block
    return Launch(spread_bias, (blocks, blocks, heads), (), constants, {"num_warps": 4})


def _spread(qkv: Tensor, table: Tensor, sizes, both: bool) -> tuple[Tensor, Tensor]:
    """Bias of each pair of tokens (heads, side, side), queries first, and keys first."""
    heads = table.shape[1]
    block = block_of(tuple(sizes), qkv.shape[-1], heads, qkv.dtype)
    side = side_of(tuple(sizes), block)
    bias = table.new_empty((2 if both else 1, heads, side, side), dtype=torch.float32)
    _spread_launch(heads, tuple(sizes[:2]), block, side, both)(table, bias[0], bias[-1])
    return bias[0], bias[-1]


def _cut(kernel, shape, heads, sizes, dtype, most_runs) -> tuple[Cut, dict, dict, int]:
    """How one call is cut into programs, constants of all kernels, options, and blocks."""
    block = block_of(sizes, shape[-1], heads, dtype)
    side = side_of(sizes, block)
    chosen = config(*_work(kernel, shape, heads, sizes, dtype))
    cut = cut_windows(shape, heads, sizes, chosen.programs, side // block, most_runs(side))
    constants = {**cut.constants, "BLOCK": block, "SIDE": side}
    del constants["HEADS"]
    constants["CHANNELS"] = head_width(shape[-1], heads)
    return cut, constants, chosen.options, side // block


@remembered
def _forward_launch(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked
) -> Launch:
    cut, constants, options, blocks = _cut(
        "streamed_forward", shape, heads, sizes, dtype, lambda side: None
    )
    constants |= modes(has_padding, cosine, masked, dropout_p) | {"PRECISION": precision}
    grid, numbers = (cut.runs, heads, blocks), (scale, dropout_p, *cut.numbers, heads)
    return Launch(streamed_forward, grid, numbers, constants, options)


@tuned(_forward_launch.cache_clear, _forward_work)
def attend(
    qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale, dropout_p
) -> Tensor:
    """The attended map; arguments as of :func:`.attention_op.attend`."""
    kind = kind_of_call(
        qkv, table, padding_qkv, logit_scale, valid_sizes, packed, sizes, scale, dropout_p
    )
    launch = _forward_launch(*kind)
    bias, _ = _spread(qkv, table, sizes, False)
    out = qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))
    others = stand_ins(qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed)
    launch(qkv, bias, *others, out)
    return out


@remembered
def _backward_launches(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked, sum_all
) -> tuple[Launch, Launch, Pairs, int]:
    """Of queries, then of keys; what the partial sums of pairs are; and how many windows."""

    def most_runs(side: int) -> int:
        return max(1, PAIR_BYTES // (4 * heads * side * side))

    cut, constants, options, blocks = _cut(
        "streamed_backward", shape, heads, sizes, dtype, most_runs
    )
    constants |= modes(has_padding, cosine, masked, dropout_p)
    constants |= {"SUM_ALL": sum_all, "PRECISION": precision}
    grid, numbers = (cut.runs, heads, blocks), (scale, dropout_p, *cut.numbers, heads)
    launches = [
        Launch(kernel, grid, numbers, constants, options)
        for kernel in (streamed_backward_queries, streamed_backward_keys)
    ]
    side = constants["SIDE"]
    return *launches, Pairs(heads, side * side, side, *sizes[:2]), cut.windows


def _backward_work(
    grad_out, qkv, table, padding, scales, valid, packed, seed, sizes, *others
) -> Work:
    return _work("streamed_backward", shape_of(qkv, packed), table.shape[1], sizes, qkv.dtype)


@tuned(_backward_launches.cache_clear, _backward_work)
def partials(
    grad_out, qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale,
    dropout_p, sum_all,
) -> tuple[Tensor, Tensor, tuple[Pairs, Tensor]]:  # fmt: skip
    """Gradients; arguments and results as of :func:`.attention_op.attention_partials`."""
    kind = kind_of_call(
        qkv, table, padding_qkv, logit_scale, valid_sizes, packed, sizes, scale, dropout_p
    )
    queries, keys, pairs, windows = _backward_launches(*kind, sum_all)
    bias, transposed = _spread(qkv, table, sizes, True)
    runs, heads, blocks = queries.grid
    grad_qkv = torch.empty_like(qkv)
    statistics = table.new_empty((windows, heads, 2, pairs.keys), dtype=torch.float32)
    pair_partials = table.new_zeros((runs, pairs.columns), dtype=torch.float32)
    sums = table.new_empty((runs * blocks, qkv.shape[-1] + heads), dtype=torch.float32)
    others = stand_ins(qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed)
    beside = (*others, grad_out, grad_qkv, statistics)
    queries(qkv, bias, *beside, pair_partials, sums)
    keys(qkv, transposed, *beside, sums)
    return grad_qkv, sums, (pairs, pair_partials)
