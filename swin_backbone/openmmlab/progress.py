"""A progress bar for training, instead of a wall of log lines."""

from __future__ import annotations

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show steps, loss, learning rate and remaining time in one line.

    Where the output is no terminal, in the log of a CI run, there is a line for each tenth.

    Args:
        momentum: weight of the past in the shown loss, in [0, 1).
    """

    priority = "LOW"

    def __init__(self, momentum: float = 0.95):
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        self.momentum = momentum
        self.loss = None
        self.progress = None

    def before_train(self, runner) -> None:
        """Draw the bar, in the main process only."""
        if not is_main_process():
            return
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  lr {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.task = self.progress.add_task(
            "training", total=runner.max_iters, completed=runner.iter, loss="-", rate="-"
        )
        self.progress.start()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Move the bar by one step."""
        if self.progress is None:
            return
        loss = float(outputs["loss"].detach())
        self.loss = loss if self.loss is None else self._mix(loss)
        rate = runner.optim_wrapper.get_lr()
        rate = next(iter(rate.values()))[0] if isinstance(rate, dict) else rate[0]
        shown = {"loss": f"{self.loss:.3f}", "rate": f"{rate:.1e}"}
        self.progress.update(self.task, advance=1, **shown)
        step, total = runner.iter + 1, runner.max_iters
        if not self.progress.console.is_terminal and step * 10 % total < 10:
            line = f"step {step}/{total}  loss {shown['loss']}  lr {shown['rate']}"
            self.progress.console.print(line, highlight=False)

    def _mix(self, loss: float) -> float:
        return self.momentum * self.loss + (1 - self.momentum) * loss

    def after_train(self, runner) -> None:
        """Leave the bar as it ended."""
        if self.progress is not None:
            self.progress.stop()
