"""Launches of the attention kernels for windows of 65 to 256 tokens, by whole rows of scores."""

from __future__ import annotations

from math import prod

import torch
import triton
from torch import Tensor

from .attention_cut import Cut, cut_windows, head_width, modes, or_else, shape_of
from .kernels.row_attention_kernels import rows_backward_keys, rows_backward_queries, rows_forward
from .launch import Launch, precision, remembered
from .partial_sums import Pairs
from .tuning import Work, config, tuned

#: Tokens of a window that these kernels take, and bytes of a token's head: wider ones leave too few
#: registers.
LEAST_TOKENS, MOST_TOKENS, MOST_BYTES = 65, 256, 2**6


def takes(dtype: torch.dtype, sizes: tuple[int, ...], head_dim: int) -> bool:
    """Whether these kernels compute windows of ``sizes`` with ``head_dim`` channels a head."""
    tokens = sizes[0] * sizes[1]
    return LEAST_TOKENS <= tokens <= MOST_TOKENS and head_dim * dtype.itemsize <= MOST_BYTES


def tiles(tokens: int) -> tuple[int, int]:
    """Two tiles that hold ``tokens``: powers of two, of which the second is at least 16, or none.

    For example 144 tokens are 128 and 16, and 256 are one tile.
    """
    left = 1 << (tokens.bit_length() - 1)
    right = max(16, triton.next_power_of_2(tokens - left)) if tokens > left else 0
    return (2 * left, 0) if right == left else (left, right)


def _work(kernel: str, shape: tuple[int, ...], sizes, dtype: torch.dtype) -> Work:
    """For a launch cut for ``shape``, see :func:`.attention_cut.shape_of`, and ``sizes``."""
    rows = prod(shape[:-1]) * (sizes[0] * sizes[1] if len(shape) == 2 else 1)
    return Work(kernel, shape[-1] // 3, rows, dtype)


def _forward_work(qkv, table, padding, scales, valid, packed, seed, sizes, *others) -> Work:
    return _work("rows_forward", shape_of(qkv, packed), sizes, qkv.dtype)


def _cut(kernel, shape, heads, sizes, dtype) -> tuple[Cut, dict, dict, tuple[int, int, int]]:
    """How one call is cut into programs, constants of all kernels, options, and the grid."""
    chosen = config(*_work(kernel, shape, sizes, dtype))
    blocks = triton.cdiv(sizes[0] * sizes[1], chosen.rows)
    cut = cut_windows(shape, heads, sizes, chosen.programs, blocks)
    left, right = tiles(sizes[0] * sizes[1])
    constants = {**cut.constants, "BLOCK": chosen.rows, "SIDE": blocks * chosen.rows}
    constants |= {"LEFT": left, "RIGHT": right, "CHANNELS": head_width(shape[-1], heads)}
    del constants["HEADS"]
    return cut, constants, chosen.options, (blocks, heads, cut.runs)


@remembered
def _forward_launch(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked
) -> Launch:
    cut, constants, options, grid = _cut("rows_forward", shape, heads, sizes, dtype)
    constants |= modes(has_padding, cosine, masked, dropout_p) | {"PRECISION": precision}
    return Launch(rows_forward, grid, (scale, dropout_p, *cut.numbers, heads), constants, options)


@tuned(_forward_launch.cache_clear, _forward_work)
def attend(
    qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale, dropout_p
) -> Tensor:
    """The attended map; arguments as of :func:`.attention_op.attend`."""
    launch = _forward_launch(
        shape_of(qkv, packed), table.shape[1], tuple(sizes), scale, dropout_p, qkv.dtype,
        precision(qkv.dtype), padding_qkv is not None, logit_scale is not None,
        valid_sizes is not None,
    )  # fmt: skip
    out = qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))
    launch(
        qkv, table, or_else(padding_qkv, qkv), or_else(logit_scale, table),
        or_else(valid_sizes, table), or_else(packed, table), or_else(seed, table), out,
    )  # fmt: skip
    return out


@remembered
def _backward_launches(
    shape, heads, sizes, scale, dropout_p, dtype, precision, has_padding, cosine, masked, sum_all
) -> tuple[Launch, Launch, Pairs, int]:
    """Of queries, then of keys; what the partial sums of pairs are; and how many windows."""
    cut, constants, options, grid = _cut("rows_backward", shape, heads, sizes, dtype)
    constants |= modes(has_padding, cosine, masked, dropout_p)
    constants |= {"SUM_ALL": sum_all, "PRECISION": precision}
    numbers = (scale, dropout_p, *cut.numbers, heads)
    launches = [
        Launch(kernel, grid, numbers, constants, options)
        for kernel in (rows_backward_queries, rows_backward_keys)
    ]
    keys = constants["LEFT"] + constants["RIGHT"]
    return *launches, Pairs(heads, constants["SIDE"] * keys, keys, *sizes[:2]), cut.windows


def _backward_work(
    grad_out, qkv, table, padding, scales, valid, packed, seed, sizes, *others
) -> Work:
    return _work("rows_backward", shape_of(qkv, packed), sizes, qkv.dtype)


@tuned(_backward_launches.cache_clear, _backward_work)
def partials(
    grad_out, qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed, sizes, scale,
    dropout_p, sum_all,
) -> tuple[Tensor, Tensor, tuple[Pairs, Tensor]]:  # fmt: skip
    """Gradients; arguments and results as of :func:`.attention_op.attention_partials`."""
    queries, keys, pairs, windows = _backward_launches(
        shape_of(qkv, packed), table.shape[1], tuple(sizes), scale, dropout_p, qkv.dtype,
        precision(qkv.dtype), padding_qkv is not None, logit_scale is not None,
        valid_sizes is not None, sum_all,
    )  # fmt: skip
    blocks, heads, runs = queries.grid
    wide = {"dtype": torch.float32, "device": qkv.device}
    grad_qkv = torch.empty_like(qkv)
    statistics = torch.empty((windows, heads, 2, pairs.pairs // pairs.keys), **wide)
    pair_partials = torch.empty((runs, pairs.columns), **wide)
    sums = torch.empty((runs * blocks, qkv.shape[-1] + heads), **wide)
    given = (
        qkv, table, or_else(padding_qkv, qkv), or_else(logit_scale, table),
        or_else(valid_sizes, table), or_else(packed, table), or_else(seed, table), grad_out,
        grad_qkv, statistics,
    )  # fmt: skip
    queries(*given, pair_partials, sums)
    keys(*given, sums)
    return grad_qkv, sums, (pairs, pair_partials)
