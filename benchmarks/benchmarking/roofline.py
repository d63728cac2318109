"""What the hardware would allow: measured ceilings, and the work that no implementation avoids.

*Arithmetic* is counted by PyTorch's ``FlopCounterMode`` on the meta device, on our reference
backend, forward (and backward for training): all matrix multiplications, attention's over whole
windows included, two operations a multiply-add. Norms, softmax and GELU count nothing.

*Bytes* are counted as if each branch of a block (attention; MLP) and each other layer were one
pass: it reads its input once and writes its output once, in the precision of the case. Images and
weights are read once, in float32. The backward pass reads each layer's input (what lies between is
recomputed) and its output's gradient, and writes its input's gradient; images and weights are read
again, and the gradients of the weights written in float32.

*Exponentials* are of the single kernels of a profile alone (:mod:`.kernel_work`).
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from swin_backbone.inference.timing import seconds

from .cases import DTYPES, Architecture, Case, matmul_precision
from .implementations import IMPLEMENTATIONS


@dataclass(frozen=True)
class Ceilings:
    """What the device reaches, measured.

    Args:
        dtype: the precision of the product.
        copy: bytes a second, read and written, of a large copy on the device.
        product: operations a second of a large square matrix product of random numbers.
        copy_bytes: bytes of the copied tensor.
        product_size: rows of the matrices.
        exponentials: a second, by the units that compute nothing else; infinite where there are
            none.
    """

    dtype: str
    copy: float
    product: float
    copy_bytes: int
    product_size: int
    exponentials: float = math.inf


@dataclass(frozen=True)
class Floor:
    """The least work of one step.

    Args:
        flops: operations.
        bytes: read and written.
    """

    flops: float
    bytes: float

    def seconds(self, ceilings: Ceilings) -> float:
        """The least time: the arithmetic's or the bytes', whichever is longer."""
        return max(self.flops / ceilings.product, self.bytes / ceilings.copy)


#: Exponentials a clock of a multiprocessor (CUDA C++ programming guide, throughput of arithmetic
#: instructions, of compute capability 7.0 to 10.0), and clocks a second where PyTorch names none.
EXPONENTIALS_A_CLOCK, CLOCK = 16, 1.98e9


def _exponentials(device: str) -> float:
    if device != "cuda":
        return math.inf
    properties = torch.cuda.get_device_properties()
    clock = 1e3 * getattr(properties, "clock_rate", 0) or CLOCK
    return EXPONENTIALS_A_CLOCK * properties.multi_processor_count * clock


def measure_ceilings(device: str, dtype: str, repeats: int = 5) -> Ceilings:
    """Copy and multiply large random tensors; medians after two warm-ups."""
    on_gpu = device == "cuda"
    copy_bytes, size = (2**30, 8192) if on_gpu else (2**28, 2048)
    source = torch.randn(copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    copy_seconds = _median_seconds(lambda: target.copy_(source), device, repeats)
    a, b = torch.randn(2, size, size, device=device).to(DTYPES[dtype])
    with matmul_precision(dtype):
        product_seconds = _median_seconds(lambda: a @ b, device, repeats)
    return Ceilings(
        dtype, 2 * copy_bytes / copy_seconds, 2 * size**3 / product_seconds, copy_bytes, size,
        _exponentials(device),
    )  # fmt: skip


def _median_seconds(step, device: str, repeats: int) -> float:
    for _ in range(2):
        step()
    return statistics.median(seconds(step, device) for _ in range(repeats))


def count_floor(case: Case) -> Floor:
    """The least work of one step of ``case``."""
    arch = case.architecture
    training = case.mode == "train"
    with torch.device("meta"):
        model = IMPLEMENTATIONS["ours:reference"].build(arch, case.size)
    model.train(training)
    flops = case.batch * _count_flops(model, case.size, training)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Floor(flops, _count_bytes(case, arch, parameters))


def _count_flops(model: torch.nn.Module, size: tuple[int, int], training: bool) -> int:
    """Operations for one image."""
    images = torch.empty(1, 3, *size, device="meta")
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as counter:
        maps = model(images)
        if training:
            sum(m.mean() for m in maps).backward()
    return counter.get_total_flops()


def _count_bytes(case: Case, arch: Architecture, parameters: int) -> int:
    training = case.mode == "train"
    maps = [channels * rows * columns for _, channels, rows, columns in case.map_shapes()]
    # (elements in, elements out) of each layer, for one image
    embedding = [(0, maps[0])]  # the image is counted apart
    residual_branches = [
        (m, m) for m, depth in zip(maps, arch.depths, strict=True) for _ in range(2 * depth)
    ]
    merging = list(itertools.pairwise(maps))
    norms = [(m, m) for m in maps]
    passes = 0
    for read, written in (*embedding, *residual_branches, *merging, *norms):
        passes += read + written
        if training:
            passes += 2 * read + written
    element = DTYPES[case.dtype].itemsize
    images = case.batch * 3 * case.size[0] * case.size[1] * 4 * (2 if training else 1)
    weights = parameters * 4 * (3 if training else 1)
    return case.batch * passes * element + images + weights
