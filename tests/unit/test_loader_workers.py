"""Workers that a loader keeps leave when training has ended."""

from multiprocessing import active_children
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from swin_backbone.ops.torch_internals.loader_workers import end_workers


def loader_of(**options):
    return DataLoader(torch.arange(8.0, device="cpu"), batch_size=2, **options)


def started_by(loader):
    before = set(active_children())
    batches = iter(loader)
    next(batches)
    return set(active_children()) - before


def test_workers_leave_and_others_start():
    loader = loader_of(num_workers=2, persistent_workers=True)
    for _ in range(2):
        workers = started_by(loader)
        assert len(workers) == 2
        end_workers(loader)
        assert [worker.exitcode for worker in workers] == [0, 0]
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    end_workers(loader)


@pytest.mark.parametrize("loader", [loader_of(), object()], ids=["no workers", "no loader"])
def test_without_workers_nothing_happens(loader):
    end_workers(loader)


def test_the_hook_ends_them_after_training():
    pytest.importorskip("mmengine")
    from mmengine.registry import HOOKS

    import swin_backbone.openmmlab  # noqa: F401  (registers it)

    loader = loader_of(num_workers=1, persistent_workers=True)
    (worker,) = started_by(loader)
    hook = HOOKS.build({"type": "EndWorkersHook"})
    runner = SimpleNamespace(train_dataloader=loader)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    assert worker.is_alive()
    hook.after_train(runner)
    assert worker.exitcode == 0
