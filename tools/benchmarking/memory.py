"""Peak memory of one step of one implementation, as if it were alone."""

from __future__ import annotations

import functools
import multiprocessing
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from .cases import Architecture, Case
from .implementations import IMPLEMENTATIONS
from .steps import EAGER, Step, make_step


def peak_on_gpu(model: nn.Module, images: Tensor, step: Step) -> int:
    """Bytes that PyTorch's allocator held at most in one step.

    What other implementations keep on the card is taken off; weights, buffers and images of this
    one are part of it.
    """
    model.zero_grad(set_to_none=True)
    own = sum(_bytes(tensor) for tensor in (*model.parameters(), *model.buffers(), images))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before + own
    model.zero_grad(set_to_none=True)
    return peak


@functools.cache  # measured anew with torch.compile, which does not change it
def peak_on_cpu(name: str, case: Case) -> int:
    """Bytes by which a fresh process grows at most that builds the model and runs two steps."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (name, case, torch.get_num_threads()))


def _growth(name: str, case: Case, threads: int) -> int:
    torch.set_num_threads(threads)
    build = IMPLEMENTATIONS[name].build
    arch = Architecture.named(case.arch)
    build(Architecture(8, (1,) * 4, (1,) * 4), (32, 32))  # imports what it needs
    before = _status_bytes("VmRSS")
    step = make_step(build(arch, case.size), case.images(), case, EAGER)
    for _ in range(2):
        step()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    """Resident memory of this process, now (``VmRSS``) or at its highest (``VmHWM``), of Linux.

    Not ``getrusage``: a new process begins with the highest value of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", status)[1])


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
