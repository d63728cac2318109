"""Peak memory of one step of one implementation, as if it were alone."""

from __future__ import annotations

import functools
import multiprocessing
import re
from pathlib import Path

import torch

from .cases import Architecture, Case
from .implementations import IMPLEMENTATIONS
from .steps import EAGER, make_step


@functools.cache  # measured again with torch.compile, which does not change it
def peak_on_cpu(name: str, case: Case) -> int:
    """Bytes by which a fresh process grows at most that builds the model and runs two steps."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (name, case, torch.get_num_threads()))


def _growth(name: str, case: Case, threads: int) -> int:
    torch.set_num_threads(threads)
    build = IMPLEMENTATIONS[name].build
    arch = case.architecture
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
