"""A run that is over does not wait for its workers."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...ops.torch_internals.loader_workers import end_workers_at_exit


@HOOKS.register_module()
class EndWorkersHook(Hook):
    """Let the workers that load training data leave as soon as the process is to end, however it
    comes to that.

        custom_hooks = [dict(type="EndWorkersHook")]

    With ``pin_memory`` and ``persistent_workers`` torch waits five seconds for each one else
    (https://github.com/pytorch/pytorch/issues/81794, versions before 2.14).
    """

    def __init__(self):
        self.is_ready = False

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """The first batch is there, and so are the workers."""
        if not self.is_ready:
            end_workers_at_exit(runner.train_dataloader)
            self.is_ready = True
