"""How kernels are cut into programs, and how they are started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from operator import attrgetter, or_
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..torch_internals.devices import current_device
from .direct_launch import LOADING, Start, direct_start

#: Programs of a kernel that loops over its work, where there is enough: some for each of a large
#: GPU's multiprocessors. Each leaves partial sums, which are added up afterwards.
PROGRAMS = 1056


class Config(NamedTuple):
    """Launch parameters of one kernel.

    Attributes:
        rows: tokens that a program handles at once.
        columns: outputs that it computes at once.
        depth: inputs of 16 bits that it multiplies at once; half as many of 32 bits.
        warps: warps of a program.
        stages: blocks in flight from memory.
        registers: at most so many for each thread, so that more programs run side by side.
        programs: into how many the work is cut, where there is enough of it; ``None`` if that
            follows from ``rows`` and ``columns``.
    """

    rows: int = 64
    columns: int = 64
    depth: int = 64
    warps: int = 4
    stages: int = 2
    registers: int | None = None
    programs: int | None = None

    @property
    def options(self) -> dict[str, int | None]:
        """What a kernel's launch takes besides the sizes of its blocks."""
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}


#: What Triton compiles for: addresses that are multiples of it, in bytes.
ALIGNMENT = 16
#: Bytes on chip that a program has at least, in KiB, by the card's generation: for torch < 2.5,
#: which does not say it (CUDA C++ Programming Guide, technical specifications).
SHARED_KIB = {7: 64, 8: 99, 9: 227, 10: 227, 12: 99}

#: For an H100 and an H200, by kernel and channels of a token; what is not listed takes the entry
#: for ``None``. What is listed by channels was measured in 16 bits and is for these.
CONFIGS: dict[tuple[str, int | None], Config] = {
    ("norm_linear", None): Config(rows=64, columns=64, warps=4, stages=2),
    ("norm_linear", 192): Config(rows=64, columns=64, warps=4, stages=3),
    ("linear", None): Config(rows=128, columns=128, depth=64, warps=8, stages=3, registers=128),
    ("linear", 96): Config(rows=64, columns=128, depth=64, warps=4, stages=2),
    ("linear", 128): Config(rows=64, columns=128, depth=64, warps=4, stages=2),
    ("linear", 192): Config(rows=64, columns=128, depth=64, warps=4, stages=2),
    ("linear_few_rows", None): Config(rows=64, columns=32, depth=128, warps=4, stages=3),
    ("linear_few_rows", 1024): Config(rows=64, columns=64, depth=64, warps=4, stages=3),
    ("linear_few_rows", 1536): Config(rows=64, columns=64, depth=64, warps=4, stages=4),
    ("gelu_backward", None): Config(rows=128, columns=128, depth=64, warps=8, stages=3),
    ("gelu_backward", 96): Config(rows=128, columns=64, depth=32, warps=4, stages=3),
    ("mlp_forward", None): Config(rows=64, columns=32, warps=4, stages=2),
    ("mlp_forward", 96): Config(rows=64, columns=32, warps=4, stages=4, registers=168),
    ("mlp_forward", 128): Config(rows=64, columns=64, warps=4, stages=3),
    ("mlp_forward", 192): Config(rows=128, columns=64, warps=8, stages=3),
    ("mlp_backward", None): Config(rows=64, columns=32, warps=4, stages=2),
    ("mlp_backward", 96): Config(rows=64, columns=32, warps=4, stages=3, registers=168),
    ("mlp_backward", 128): Config(rows=64, columns=64, warps=4, stages=2),
    ("mlp_backward", 192): Config(rows=128, columns=32, warps=8, stages=3),
    ("mlp_backward", 256): Config(rows=128, columns=32, warps=8, stages=2),
    ("mlp_weight_gradients", None): Config(rows=64, columns=64, warps=4, stages=3, programs=264),
    ("mlp_weight_gradients", 128): Config(rows=64, columns=128, warps=8, stages=3, programs=132),
    ("mlp_weight_gradients", 192): Config(rows=32, columns=128, warps=8, stages=3, programs=132),
    ("linear_norm_add", None): Config(rows=64, depth=64, warps=4, stages=3),
    ("linear_norm_add", 256): Config(rows=128, depth=64, warps=8, stages=2),
    ("linear_norm_backward", None): Config(rows=64, columns=32, depth=32, warps=4, stages=2),
    ("linear_norm_backward", 192): Config(rows=64, columns=32, depth=64, warps=4, stages=2),
    ("post_norm_mlp_forward", None): Config(rows=64, columns=32, warps=4, stages=2),
    ("post_norm_mlp_forward", 96): Config(rows=64, columns=32, warps=4, stages=4, registers=168),
    ("post_norm_mlp_forward", 192): Config(rows=64, columns=32, warps=4, stages=3),
    ("post_norm_mlp_forward", 256): Config(rows=128, columns=32, warps=8, stages=3),
    ("post_norm_mlp_backward", None): Config(rows=64, columns=32, warps=4, stages=2),
    ("post_norm_mlp_backward", 96): Config(rows=64, columns=32, warps=4, stages=3, registers=168),
    ("post_norm_mlp_backward", 128): Config(rows=64, columns=64, warps=4, stages=2),
    ("post_norm_mlp_backward", 192): Config(rows=128, columns=32, warps=8, stages=3),
    ("post_norm_mlp_backward", 256): Config(rows=128, columns=32, warps=8, stages=2),
    ("attention_forward", None): Config(warps=4, stages=2, registers=128, programs=4224),
    ("attention_forward", 96): Config(warps=4, stages=2, registers=96, programs=4224),
    ("attention_forward", 128): Config(warps=4, stages=2, registers=96, programs=4224),
    ("attention_forward", 192): Config(warps=4, stages=2, registers=96, programs=4224),
    ("attention_forward", 384): Config(warps=4, stages=2, registers=128, programs=1056),
    ("attention_forward", 512): Config(warps=4, stages=2, registers=128, programs=1056),
    ("attention_forward", 768): Config(warps=4, stages=2, registers=128, programs=1056),
    ("attention_forward", 1024): Config(warps=4, stages=2, registers=128, programs=1056),
    ("attention_backward", None): Config(warps=4, stages=2, programs=264),
    ("rows_forward", None): Config(rows=64, warps=4, stages=2, programs=1056),
    ("rows_backward", None): Config(
        rows=32, columns=32, depth=64, warps=4, stages=2, programs=1056
    ),
    ("streamed_forward", None): Config(warps=4, stages=3, programs=4224),
    ("streamed_forward_small", None): Config(warps=2, stages=2, programs=4224),
    ("streamed_backward", None): Config(warps=4, stages=2, programs=1056),
    ("streamed_backward", 96): Config(warps=4, stages=2, programs=264),
    ("streamed_backward", 192): Config(warps=4, stages=2, programs=264),
    ("streamed_backward_small", None): Config(warps=2, stages=3, programs=1056),
}


#: How to start what was compiled, by kernel, constants, options and :func:`_kind` of each number;
#: ``None`` where launches are plain.
VARIANTS: dict[tuple, dict[tuple, Start | None]] = {}

#: Functions that make launches, each with a memory.
REMEMBERED: list = []

#: Takes launches whose kernels are not compiled, instead of starting them (:mod:`.compile_ahead`).
collected = None

_address, _dtype = Tensor.data_ptr, attrgetter("dtype")


def remembered(make: Callable) -> Callable:
    """Decorator of a function that makes launches: it makes each once."""
    cached = lru_cache(maxsize=1024)(make)
    REMEMBERED.append(cached)
    return cached


def forget_launches() -> None:
    """Have every launch made again, as after a change of what they are cut by."""
    for cached in REMEMBERED:
        cached.cache_clear()


def config(kernel: str, channels: int, dtype: torch.dtype) -> Config:
    """Launch parameters, as shipped, of a kernel for ``channels`` channels multiplied in ``dtype``.

    Operations ask :func:`swin_backbone.ops.triton.tuning.config`, which knows the card.
    """
    chosen = CONFIGS.get((kernel, channels)) if dtype.itemsize <= 2 else None
    return chosen or CONFIGS[kernel, None]


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


class Launch:
    """One kernel, cut for tensors of certain shapes, ready to be started again and again.

    Numbers and constants are fixed once, so that only the tensors' dtypes and alignment are left
    to look at, and what is compiled is started directly (:mod:`.direct_launch`). Launches for other
    shapes share what was compiled: images of new sizes come in every step.
    Hooks that Triton's own profiler sets see only the launches that compile.

    Args:
        kernel: a Triton kernel that takes tensors, then numbers, then constants.
        grid: programs on each of up to three axes.
        numbers: what follows the tensors.
        constants: what the kernel is compiled for, by name.
        options: the launch's own, such as ``num_warps``.
    """

    def __init__(
        self,
        kernel,
        grid: tuple[int, ...],
        numbers: tuple[int | float, ...],
        constants: Mapping[str, object],
        options: Mapping[str, object],
    ):
        self.kernel = kernel
        self.grid = (*grid, 1, 1)[:3]
        self.numbers = numbers
        self.constants = {name: constants[name] for name in kernel.arg_names if name in constants}
        self.options = options
        #: What follows the tensors where all is compiled.
        self.constant_arguments = (*numbers, *self.constants.values())
        names = [name for name in kernel.arg_names if name not in constants][-len(numbers) :]
        kinds = tuple([_kind(*pair, kernel) for pair in zip(numbers, names, strict=False)])
        variant = (kernel, *self.constants.items(), *options.items(), kinds)
        #: By the tensors' dtypes and the device, on which a kernel is loaded.
        self.compiled = VARIANTS.setdefault(variant, {})

    def __call__(self, *tensors: Tensor) -> None:
        """Start the kernel; the tensors' shapes are those that it was cut for."""
        device = tensors[0].get_device()  # -1: the CPU, in Triton's interpreter
        if device >= 0 and device != current_device():
            with torch.cuda.device(device):
                return self(*tensors)
        pointers = [*map(_address, tensors)]
        aligned = reduce(or_, pointers) % ALIGNMENT == 0
        key = (device, *map(_dtype, tensors))
        start = self.compiled.get(key)
        if start is not None and aligned:
            return start(self.grid, pointers, self.constant_arguments)
        if collected is not None:
            return collected.add(self, device, tensors) if aligned and device >= 0 else None
        with LOADING:
            launch = self.kernel[self.grid]
            compiled = launch(*tensors, *self.numbers, **self.constants, **self.options)
            if device >= 0 and aligned and key not in self.compiled:
                self.compiled[key] = direct_start(compiled, device)
        return None


@lru_cache(maxsize=64)
def shared_memory(device: torch.device) -> float:
    """Bytes on chip that a program can have; the interpreter sets no limit."""
    if device.type != "cuda":
        return float("inf")
    properties = torch.cuda.get_device_properties(device)
    memory = getattr(properties, "shared_memory_per_block_optin", None)  # torch >= 2.5
    return memory or 1024 * SHARED_KIB.get(properties.major, min(SHARED_KIB.values()))


def _kind(number: int | float, name: str, kernel) -> object:
    """What Triton compiles for of a number that is no constant."""
    if isinstance(number, float):
        return float
    is_long = abs(number) >= 2**31
    if name in getattr(kernel, "sizes", ()):
        return is_long
    return number == 1, number % 16 == 0, is_long


def rows_of_programs(channels: int) -> tuple[int, int, int]:
    """Rows and columns of a block whose sums run over rows, and its warps."""
    columns = max(16, triton.next_power_of_2(channels))
    return max(1, 4096 // columns), columns, 4 if columns <= 2048 else 8


def rows_of_warps(channels: int, elements: int) -> tuple[int, int, int]:
    """The same for sums along rows: a row of up to 1,024 lies in one warp, which needs no barrier.

    Args:
        channels: of a row.
        elements: of a block, where more than one row fits.
    """
    columns = max(16, triton.next_power_of_2(channels))
    return max(1, elements // columns), columns, max(1, columns // 1024)


def looped(rows: int, block: int, factor: float = 1.0) -> tuple[int, int]:
    """Programs that share ``rows``, and how many each takes, in whole blocks.

    Args:
        rows: of everything.
        block: rows that a program handles at once.
        factor: of :data:`PROGRAMS`.
    """
    blocks = triton.cdiv(rows, block)
    blocks_per_program = triton.cdiv(blocks, max(1, int(factor * PROGRAMS)))
    return triton.cdiv(blocks, blocks_per_program), blocks_per_program * block
