"""Compile the kernels of a model's first step together, before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from ..graphs.training_state import unchanged
from ..ops import triton
from ..ops.dispatch import HAS_TRITON


class CompiledKernels(NamedTuple):
    """What :func:`compile_kernels` did.

    Attributes:
        kernels: variants of kernels that were compiled, or read from Triton's cache on disk.
        seconds: what it took in all.
    """

    kernels: int
    seconds: float


def compile_kernels(
    model: nn.Module,
    run: Callable[[], object],
    threads: int | None = None,
    wait: Callable[[], object] | None = None,
) -> CompiledKernels:
    """Compile the Triton kernels that ``run`` would start, in threads.

    Compiling one after the other, each when it is first started, holds up a first training step by
    a minute; together on 16 cores they take a few seconds. What is compiled stays in Triton's cache
    on disk, for later processes.

    ``run`` is called once, with the package's kernels left out, so that whatever it computes means
    nothing. Buffers, gradients, the mode of training and the states of random numbers are put back
    afterwards; parameters must not be changed by it.

        compile_kernels(model, lambda: model(images).sum().backward())

    The processes of a distributed run all have to call it, as what they wait for each other in is
    part of ``run``: synchronised norms, parameters that are gathered, averages in losses. One of a
    machine's compiles; the others ``wait`` for it, such as in a barrier that it enters
    afterwards, and then find its kernels on disk.

    Args:
        model: on a GPU; a model elsewhere starts no kernels.
        run: forward, or forward and backward.
        threads: how many compile at a time; ``None``: one for each core that the process may use.
        wait: called once between ``run`` and compiling, also if ``run`` fails or starts no kernels;
            ``None``: kernels are compiled while ``run`` goes on.

    Returns:
        How many, and how long it took.

    Raises:
        TypeError: if ``model`` is no module.
        ValueError: if ``threads`` is less than 1.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    began = time.monotonic()
    if not HAS_TRITON or not any(p.is_cuda for p in model.parameters()):
        if wait is not None:
            wait()
        return CompiledKernels(0, 0.0)
    with triton.compile_ahead.collect_launches(threads, wait) as collected, kept_state(model):
        run()
    torch.cuda.synchronize()
    return CompiledKernels(collected.kernels, time.monotonic() - began)


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Put back, at the end, what a forward and a backward pass change in a model and around it."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    device = next((parameter.device for parameter, _ in gradients), torch.device("cpu"))
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with unchanged(model, device):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
