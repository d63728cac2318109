"""How kernels are cut into programs."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

#: Programs of a kernel that loops over its work, where there is enough: some for each of a large
#: GPU's multiprocessors. Each leaves shares of sums that are added up afterwards.
PROGRAMS = 1056


class Config(NamedTuple):
    """Launch parameters of one kernel.

    Attributes:
        rows: tokens that a program handles at once.
        columns: outputs that it computes at once.
        depth: inputs that it multiplies at once.
        warps: warps of a program.
        stages: blocks in flight from memory.
    """

    rows: int = 64
    columns: int = 64
    depth: int = 64
    warps: int = 4
    stages: int = 2


#: By kernel and channels; what is not listed takes the kernel's entry for ``None``.
CONFIGS: dict[tuple[str, int | None], Config] = {
    ("norm_linear", None): Config(rows=128, columns=64, warps=8, stages=2),
    ("norm_linear", 96): Config(rows=128, columns=32, warps=4, stages=3),
    ("linear", None): Config(rows=128, columns=128, depth=64, warps=8, stages=3),
    ("gelu_products", None): Config(rows=128, columns=128, depth=64, warps=8, stages=3),
    ("mlp_forward", None): Config(rows=128, columns=64, warps=8, stages=2),
    ("mlp_backward", None): Config(rows=64, columns=64, warps=8, stages=2),
}


def config(kernel: str, channels: int) -> Config:
    """Launch parameters of a kernel for tokens of ``channels`` channels."""
    return CONFIGS.get((kernel, channels)) or CONFIGS[kernel, None]


def precision(dtype: torch.dtype) -> str:
    """How matrices of ``dtype`` are multiplied, in Triton's words."""
    exact = dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return "ieee" if exact else "tf32"


def split(channels: int) -> tuple[int, int]:
    """``channels`` as the sum of two powers of two, the second at least 16 or zero.

    Raises:
        ValueError: if it is no such sum.
    """
    left = 1 << (channels.bit_length() - 1)
    right = channels - left
    if left < 16 or (right and (right < 16 or right & (right - 1))):
        raise ValueError(f"channels must be a sum of two powers of two >= 16, got {channels}")
    return left, right


def norm_rows(channels: int) -> tuple[int, int, int]:
    """Rows and columns of a block that a program of a norm holds, and its warps."""
    columns = max(16, triton.next_power_of_2(channels))
    return max(1, 4096 // columns), columns, 4 if columns <= 2048 else 8


def looped(rows: int, block: int) -> tuple[int, int]:
    """Programs that share ``rows``, and how many each takes, in whole blocks."""
    blocks = triton.cdiv(rows, block)
    blocks_per_program = triton.cdiv(blocks, PROGRAMS)
    return triton.cdiv(blocks, blocks_per_program), blocks_per_program * block


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Contiguous memory on the device of ``like``."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
