"""Checkpoints that are complete or absent, whenever the process dies."""

from __future__ import annotations

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from ..atomic_files import write_bytes, write_text
from .mmengine_internals import warn_of_order_of_saving

BACKEND = "atomic_local"


class AtomicLocalBackend(LocalBackend):
    """Local files that appear under their name only when every byte is on the disk."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` beside ``filepath`` and move it there, replacing what was there."""
        write_bytes(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Like :meth:`put`, for text."""
        write_text(filepath, obj, encoding)


register_backend(BACKEND, AtomicLocalBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, in an order and a way that always leave a way to resume.

    mmengine's own removes the checkpoint that is one too many before the new one is there,
    writes over the one that ``last_checkpoint`` names when a best score is stored in it, and
    empties ``last_checkpoint`` before it fills it. A process killed at such a moment leaves
    nothing to resume from. Here files on local disks are replaced in one step, and old ones
    removed when the new one is complete. Other storage than local disks is left to mmengine.

    Takes the arguments of ``CheckpointHook``.
    """

    def before_train(self, runner) -> None:
        """Find where checkpoints go, as mmengine does."""
        super().before_train(runner)
        warn_of_order_of_saving()
        if type(self.file_backend) is LocalBackend and self.file_client_args is None:
            self.backend_args = {"backend": BACKEND}
            self.file_backend = AtomicLocalBackend()

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        steps = self._note_step(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_text(Path(runner.work_dir) / "last_checkpoint", self.last_ckpt)
            for surplus in steps[: -self.max_keep_ckpts]:
                self._remove(surplus)

    def _note_step(self, runner, step: int) -> list[int]:
        """Steps whose checkpoints are there, the oldest perhaps one too many; none if all stay.

        The checkpoint itself names the surplus one too: mmengine removes it when it resumes,
        should the process die before it is removed here.
        """
        if self.max_keep_ckpts <= 0:
            return []
        steps = [*(old for old in self.keep_ckpt_ids if old != step), step]
        runner.message_hub.update_info("keep_ckpt_ids", steps)
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(steps[-self.max_keep_ckpts :])
        return steps

    def _remove(self, step: int) -> None:
        path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # checkpoints saved by deepspeed
            self.file_backend.rmtree(path)
