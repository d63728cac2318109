"""Compile a run's kernels together, before its first steps: one line of a config."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..acceleration.compile_ahead import CompiledKernels, compile_kernels


@HOOKS.register_module()
class CompileAheadHook(Hook):
    """Compile the package's kernels in threads before the first step of training and evaluation.

        custom_hooks = [dict(type="CompileAheadHook")]

    The first batch goes through the model once more, with kernels left out
    (:func:`swin_backbone.acceleration.compile_ahead.compile_kernels`), in all processes of a run
    together. Of those on a machine the first one compiles, and the others find its kernels in
    Triton's cache. Where the batch does not go through, the log says why, and kernels are compiled
    when they are started.

    Args:
        threads: how many compile at a time; ``None``: one for each core.
    """

    priority = "VERY_HIGH"  # before hooks that capture, time or count the first step

    def __init__(self, threads: int | None = None):
        self.threads = threads
        self.done: set[str] = set()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Of forward, losses and backward."""
        model = without_reducer(runner.model)
        inner = unwrapped(model)

        def run() -> None:
            with runner.optim_wrapper.optim_context(model):
                data = inner.data_preprocessor(copy.deepcopy(data_batch), True)
                losses = model(**data, mode="loss")
            inner.parse_losses(losses)[0].backward()

        self._compile_once("training", model, run)

    def before_val_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Of predictions."""
        self._before_prediction(runner, data_batch, runner.val_loop)

    def before_test_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Of predictions."""
        self._before_prediction(runner, data_batch, runner.test_loop)

    def _before_prediction(self, runner, data_batch, loop) -> None:
        model = without_reducer(runner.model)

        def run() -> None:
            with torch.no_grad(), torch.autocast("cuda", enabled=getattr(loop, "fp16", False)):
                model.val_step(copy.deepcopy(data_batch))

        self._compile_once("evaluation", model, run)

    def _compile_once(self, phase: str, model: nn.Module, run: Callable[[], None]) -> None:
        if phase in self.done or not torch.cuda.is_available():
            return
        self.done.add(phase)
        try:
            compiled = compile_together(model, run, self.threads)
            print_log(
                f"compiled {compiled.kernels} kernels for {phase} in {compiled.seconds:.1f} s",
                "current",
            )
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            print_log(f"kernels for {phase} are compiled as they are started: {reason}", "current")


def compile_together(
    model: nn.Module, run: Callable[[], object], threads: int | None = None
) -> CompiledKernels:
    """:func:`compile_kernels`, called by all processes: of those on a machine the first one
    compiles, and the others wait for it, also if it fails."""
    is_first = get_local_rank() == 0
    try:
        return compile_kernels(model, run, threads, None if is_first else barrier)
    finally:
        if is_first:
            barrier()


def without_reducer(model: nn.Module) -> nn.Module:
    """What ``DistributedDataParallel`` wraps, whose gradients it would average. FSDP's wrapper
    gathers parameters, and stays."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def unwrapped(model: nn.Module) -> nn.Module:
    """What a wrapper for several processes holds."""
    return model.module if is_model_wrapper(model) else model
