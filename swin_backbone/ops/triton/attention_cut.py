"""How attention within windows is cut into programs, whichever kernels compute it."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..geometry.windows import WindowGrid
from .launch import precision
from .tuning import Work


class Cut(NamedTuple):
    """Windows of one call, and the programs that share them.

    Attributes:
        windows: how many there are.
        runs: programs that share them, for each head and block of tokens.
        numbers: sizes that may change from call to call without recompiling.
        constants: sizes that a kernel is compiled for.
    """

    windows: int
    runs: int
    numbers: tuple[int, ...]
    constants: dict[str, object]


def cut_windows(
    shape: tuple[int, ...],
    heads: int,
    sizes: tuple[int, ...],
    programs: int,
    blocks: int = 1,
    most_runs: int | None = None,
) -> Cut:
    """Share the windows of one call.

    Args:
        shape: see :func:`shape_of`.
        heads: number of heads.
        sizes: window rows and columns, shift rows and columns, and 1 for maps that are rolled
            before they are filled up, as :meth:`.residual_branches.Windows.sizes` says.
        programs: into how many the work is cut, where there is enough of it.
        blocks: of tokens in a window, a program each.
        most_runs: where each leaves something that takes much memory.
    """
    windows, lattice, packed = shape[0], (0, 0, 0, 0), len(shape) == 2
    if not packed:
        batch, height, width, _ = shape
        grid = WindowGrid(height, width, sizes[:2], sizes[2:4])
        windows, lattice = batch * grid.rows * grid.columns, (grid.rows, grid.columns)
        lattice += height, width
    per_program = triton.cdiv(windows * heads * blocks, programs)
    if most_runs is not None:
        per_program = max(per_program, triton.cdiv(windows, most_runs))
    constants = {"HEADS": heads, "HEAD": shape[-1] // (3 * heads), "PACKED": packed}
    constants |= {"WINDOW_H": sizes[0], "WINDOW_W": sizes[1]}
    constants |= {"SHIFT_H": sizes[2], "SHIFT_W": sizes[3], "ROLLS_FIRST": any(sizes[4:])}
    numbers = (windows, per_program, *lattice)
    return Cut(windows, triton.cdiv(windows, per_program), numbers, constants)


def shape_of(qkv: Tensor, packed: Tensor | None) -> tuple[int, ...]:
    """What a launch is cut for: (B, H, W, 3 * C), or (windows, 3 * C) of packed maps."""
    return tuple(qkv.shape) if packed is None else (packed.shape[0], qkv.shape[-1])


def work_of(kernel: str, shape: tuple[int, ...], sizes, dtype: torch.dtype) -> Work:
    """What a configuration of ``kernel`` is chosen for; ``shape`` as of :func:`shape_of`."""
    rows = prod(shape[:-1]) * (sizes[0] * sizes[1] if len(shape) == 2 else 1)
    return Work(kernel, shape[-1] // 3, rows, dtype)


def kind_of_call(
    qkv, table, padding_qkv, logit_scale, valid_sizes, packed, sizes, scale, dropout_p
) -> tuple:
    """What a launch is made for; arguments as of :func:`.attention_op.attend`.

    Returns:
        Shape, heads, sizes, scale, probability of dropout, dtype, precision, and whether there are
        padding, cosines and masks.
    """
    return (
        shape_of(qkv, packed), table.shape[1], tuple(sizes), scale, dropout_p, qkv.dtype,
        precision(qkv.dtype), padding_qkv is not None, logit_scale is not None,
        valid_sizes is not None,
    )  # fmt: skip


def head_width(channels: int, heads: int) -> int:
    """Power of two that holds a head's channels, of 3 * C ``channels``."""
    return max(16, triton.next_power_of_2(channels // (3 * heads)))


def modes(has_padding: bool, cosine: bool, masked: bool, dropout_p: float) -> dict[str, bool]:
    """What a kernel of attention is compiled for beside sizes."""
    return {
        "HAS_PADDING": has_padding,
        "COSINE": cosine,
        "MASKED": masked,
        "DROPOUT": dropout_p > 0,
    }


def or_else(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """A pointer for an argument that a kernel is compiled not to read."""
    return stand_in if tensor is None else tensor


def stand_ins(qkv, table, padding_qkv, logit_scale, valid_sizes, packed, seed) -> tuple:
    """What every kernel takes beside its own: what there is none of is another tensor, not read."""
    return (
        or_else(padding_qkv, qkv), or_else(logit_scale, table), or_else(valid_sizes, table),
        or_else(packed, table), or_else(seed, table),
    )  # fmt: skip
