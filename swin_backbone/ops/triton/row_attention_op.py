"""Launches of the attention kernels for windows of 65 to 160 tokens, by whole rows of scores.

Scores are scaled dot products: why not cosines, :mod:`.kernels.row_attention_kernels` says.

Of their launch parameters, ``rows`` are the queries of a program, in the backward pass ``columns``
the keys, and ``depth`` the channels that a head is filled up to there: with 64 of them all
products are of the size that Hopper's matrix units take from memory on chip, without registers.
"""

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
from .kernels.row_attention_kernels import rows_backward_keys, rows_backward_queries, rows_forward
from .launch import Launch, remembered
from .partial_sums import Pairs
from .tuning import Work, config, tuned

#: Tokens of a window that these kernels take, channels of a head, and bytes of an element. With
#: more of any, as with 256 tokens or float32, a multiprocessor holds but one program, or registers
#: go to memory: up to 4,240 bytes a thread in float32.
LEAST_TOKENS, MOST_TOKENS, MOST_CHANNELS, ELEMENT_BYTES = 65, 160, 32, 2


def takes(dtype: torch.dtype, sizes: tuple[int, ...], head_dim: int, cosine: bool) -> bool:
    """Whether these kernels compute windows of ``sizes`` with ``head_dim`` channels a head, and
    their scores, which may be cosines."""
    tokens = sizes[0] * sizes[1]
    narrow = head_dim <= MOST_CHANNELS and dtype.itemsize <= ELEMENT_BYTES
    return not cosine and narrow and LEAST_TOKENS <= tokens <= MOST_TOKENS


def tiles(tokens: int) -> tuple[int, int]:
    """Two tiles that hold ``tokens``: powers of two, of which the second is at least 16, or none.

    For example 144 tokens are 128 and 16, and 256 are one tile.
    """
    left = 1 << (tokens.bit_length() - 1)
    right = max(16, triton.next_power_of_2(tokens - left)) if tokens > left else 0
    return (2 * left, 0) if right == left else (left, right)


def _forward_work(qkv, table, padding, scales, valid, packed, seed, sizes, *others) -> Work:
    return work_of("rows_forward", shape_of(qkv, packed), sizes, qkv.dtype)


def _cut(shape, heads, sizes, block, programs) -> tuple[Cut, dict, tuple[int, int, int]]:
    """How one call is cut into programs of ``block`` tokens, constants, and the grid."""
    tokens = sizes[0] * sizes[1]
    blocks = triton.cdiv(tokens, block)
    cut = cut_windows(shape, heads, sizes, programs, blocks)
    left, right = tiles(tokens)
    constants = {**cut.constants, "BLOCK": block, "LEFT": left, "RIGHT": right}
    del constants["HEADS"]
    return cut, constants, (blocks, heads, cut.runs)


def _others(qkv, table, *optional: Tensor | None) -> tuple[Tensor, ...]:
    """:func:`.attention_cut.stand_ins` without that of the factors of cosines."""
    padding, _, *others = stand_ins(qkv, table, *optional)
    return padding, *others


@remembered
def _forward_launch(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked
) -> Launch:
    chosen = config(*work_of("rows_forward", shape, sizes, dtype))
    cut, constants, grid = _cut(shape, heads, sizes, chosen.rows, chosen.programs)
    constants |= modes(has_padding, cosine, masked, dropout_p)
    constants |= {"PRECISION": precision, "CHANNELS": head_width(shape[-1], heads)}
    numbers = (scale, dropout_p, *cut.numbers, heads)
    return Launch(rows_forward, grid, numbers, constants, chosen.options)


@tuned(_forward_launch.cache_clear, _forward_work)
def attend(
    qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale, dropout_p
) -> Tensor:
    """The attended map; arguments as of :func:`.attention_op.attend`, without ``logit_scale``."""
    kind = kind_of_call(
        qkv, table, padding_qkv, logit_scale, valid_sizes, packed, sizes, scale, dropout_p
    )
    launch = _forward_launch(*kind)
    out = qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))
    others = _others(qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed)
    launch(qkv, table, *others, out)
    return out


@remembered
def _backward_launches(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked, sum_all
) -> tuple[Launch, Launch, Pairs, int]:
    """Of queries, then of keys; what the partial sums of pairs are; and how many windows."""
    chosen = config(*work_of("rows_backward", shape, sizes, dtype))
    width = max(chosen.depth, head_width(shape[-1], heads))
    side = triton.cdiv(sizes[0] * sizes[1], chosen.rows) * chosen.rows
    common = {"SUM_ALL": sum_all, "PRECISION": precision, "CHANNELS": width, "SIDE": side}
    common |= modes(has_padding, cosine, masked, dropout_p)
    launches = []
    for kernel, block in (
        (rows_backward_queries, chosen.rows),
        (rows_backward_keys, chosen.columns),
    ):
        cut, constants, grid = _cut(shape, heads, sizes, block, chosen.programs)
        numbers = (scale, dropout_p, *cut.numbers, heads)
        launches.append(Launch(kernel, grid, numbers, constants | common, chosen.options))
    keys = constants["LEFT"] + constants["RIGHT"]
    return *launches, Pairs(heads, side * keys, keys, *sizes[:2]), cut.windows


def _backward_work(
    grad_out, qkv, table, padding, scales, valid, packed, seed, sizes, *others
) -> Work:
    return work_of("rows_backward", shape_of(qkv, packed), sizes, qkv.dtype)


@tuned(_backward_launches.cache_clear, _backward_work)
def partials(
    grad_out, qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale,
    dropout_p, sum_all,
) -> tuple[Tensor, Tensor, tuple[Pairs, Tensor]]:  # fmt: skip
    """Gradients; arguments, without ``logit_scale``, and results as of
    :func:`.attention_op.attention_partials`."""
    kind = kind_of_call(
        qkv, table, padding_qkv, logit_scale, valid_sizes, packed, sizes, scale, dropout_p
    )
    queries, keys, pairs, windows = _backward_launches(*kind, sum_all)
    blocks, heads, runs = queries.grid
    rows = max(blocks * runs, keys.grid[0] * keys.grid[2])
    wide = {"dtype": torch.float32, "device": qkv.device}
    grad_qkv = torch.empty_like(qkv)
    statistics = torch.empty((windows, heads, 2, pairs.pairs // pairs.keys), **wide)
    pair_partials = torch.empty((runs, pairs.columns), **wide)
    sums = torch.zeros((rows, qkv.shape[-1]), **wide)  # each kernel has rows of its own
    others = _others(qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed)
    given = (qkv, table, *others, grad_out, grad_qkv, statistics)
    queries(*given, pair_partials, sums)
    keys(*given, sums)
    return grad_qkv, sums, (pairs, pair_partials)
