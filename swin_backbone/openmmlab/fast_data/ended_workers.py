"""A run that is over does not wait for its workers."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...ops.torch_internals.loader_workers import end_workers


@HOOKS.register_module()
class EndWorkersHook(Hook):
    """Let the workers that load training data leave when training has ended.

        custom_hooks = [dict(type="EndWorkersHook")]

    With ``pin_memory`` and ``persistent_workers`` the process else waits five seconds for each one
    as it ends (https://github.com/pytorch/pytorch/issues/81794, versions before 2.14).
    """

    priority = "LOWEST"

    def after_train(self, runner) -> None:
        """No batch is asked for any more."""
        end_workers(runner.train_dataloader)
