"""Accelerate the model of a run: one line of a config."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ..acceleration import accelerate
from ..acceleration.rewrite import imported, is_of


@HOOKS.register_module()
class AccelerateHook(Hook):
    """Call :func:`swin_backbone.accelerate` on the model before it runs, and log the report.

        custom_hooks = [dict(type="AccelerateHook")]

    Args:
        switches: of :func:`swin_backbone.accelerate`: rewrites to leave out, for example
            ``predictions=False``, or ``graphs=True``.
    """

    priority = "VERY_HIGH"

    def __init__(self, **switches: bool):
        self.switches = switches

    def before_run(self, runner) -> None:
        """Rewrite the model's methods; before weights are loaded.

        A detector has other numbers of regions in each step, and often other sizes of images:
        ``cudnn.benchmark``, which tries anew for each, makes it ten times as slow.
        """
        if torch.backends.cudnn.benchmark and is_detector(runner.model):
            torch.backends.cudnn.benchmark = False
            print_log("cudnn.benchmark is off: the shapes of a detector change", "current")
        print_log(f"accelerated model:\n{accelerate(runner.model, **self.switches)}", "current")

    def before_train(self, runner) -> None:
        """Lay out what the optimizer remembers as its parameters are.

        A resumed run may come from a model in another memory format, and fused optimizers go
        through parameters and moments in the order of memory.
        """
        optimizer = getattr(getattr(runner, "optim_wrapper", None), "optimizer", None)
        if optimizer is not None:
            match_memory_format(optimizer)


def is_detector(model: torch.nn.Module) -> bool:
    """Whether a model is one of mmdet's, also wrapped for several processes."""
    stock = imported("mmdet.models.detectors.base", "BaseDetector")
    return is_of(getattr(model, "module", model), stock)


def match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Give each moment of an optimizer the strides of its parameter; values stay."""
    for parameter, state in optimizer.state.items():
        for name, moment in state.items():
            if not isinstance(moment, torch.Tensor) or moment.shape != parameter.shape:
                continue
            if moment.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)
