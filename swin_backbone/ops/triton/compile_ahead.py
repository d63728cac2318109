"""Compiling kernels before they are needed, many at a time.

Triton compiles a kernel when it is first started, and what starts it waits: a model's first step
waits for some sixty kernels, one after the other. Compiling hardly holds Python's lock, so that
threads share it out among all cores.

Where launches are collected they start nothing. What operations return then is memory as it was
found, and only of use to an operation that follows.

Kernels are loaded by one thread, when all are built: :data:`.direct_launch.LOADING` says why.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from . import launch
from .direct_launch import LOADING, build_launcher, direct_start

#: More compile no faster: the longest kernel takes a fifth of what all take on so many cores.
MOST_THREADS = 32


class Collected:
    """Launches that were collected, and what became of them.

    Args:
        executor: compiles.
        is_held: whether nothing is compiled before :meth:`wait`.

    Attributes:
        kernels: variants of kernels that were compiled.
    """

    def __init__(self, executor: ThreadPoolExecutor, is_held: bool = False):
        self._executor = executor
        self._lock = threading.Lock()  # a backward pass runs in threads of its own
        #: Launches that wait to be compiled; ``None``: each is at once.
        self._held: dict[tuple, launch.Launch] | None = {} if is_held else None
        #: What each becomes, and the dictionary that it is to be found in.
        self._compiling: dict[tuple, tuple[Future, dict]] = {}
        self.kernels = 0

    def add(self, started: launch.Launch, device: int, tensors: tuple[Tensor, ...]) -> None:
        """Compile the kernel of a launch, unless that was begun."""
        dtypes = tuple(tensor.dtype for tensor in tensors)
        key = (id(started.compiled), device, dtypes)
        with self._lock:
            if self._held is not None:
                self._held.setdefault(key, started)
            elif key not in self._compiling:
                self._begin(key, started)

    def _begin(self, key: tuple, started: launch.Launch) -> None:
        _, device, dtypes = key
        future = self._executor.submit(_compile, started, device, dtypes)
        self._compiling[key] = future, started.compiled

    def wait(self) -> None:
        """Wait for all, and load them.

        Raises:
            Exception: what Triton raised for a kernel that does not compile.
        """
        for key, started in (self._held or {}).items():
            self._begin(key, started)
        kernels = [future.result() for future, _ in self._compiling.values()]
        with LOADING:
            for _ in self._executor.map(build_launcher, kernels):
                pass
            for compiled, (key, (_, place)) in zip(kernels, self._compiling.items(), strict=True):
                _, device, dtypes = key
                with torch.cuda.device(device):
                    place[(device, *dtypes)] = direct_start(compiled, device)
        self.kernels = len(kernels)


def _compile(started: launch.Launch, device: int, dtypes: tuple[torch.dtype, ...]) -> object:
    arguments = (*dtypes, *started.numbers)
    with torch.cuda.device(device):
        return started.kernel.warmup(
            *arguments, grid=started.grid, **started.constants, **started.options
        )


@contextmanager
def collect_launches(
    threads: int | None = None, wait: Callable[[], object] | None = None
) -> Iterator[Collected]:
    """Within it, kernels that are not compiled are compiled by threads instead of started.

    Leaving it waits for them. Whatever is computed within is not to be used.

    Args:
        threads: how many compile at a time; ``None``: one for each core that the process may use.
        wait: called on leaving, also with an error, and before anything is compiled.
    """
    count = threads or min(MOST_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(count, thread_name_prefix="compile") as executor:
        collected = Collected(executor, is_held=wait is not None)
        outer, launch.collected = launch.collected, collected
        try:
            yield collected
        finally:
            launch.collected = outer
            if wait is not None:
                wait()
        collected.wait()
