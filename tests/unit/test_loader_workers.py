"""Workers that a loader keeps leave when a process ends, before torch waits for them."""

import atexit
import gc
import weakref
from multiprocessing import active_children
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from swin_backbone.ops.torch_internals.loader_workers import end_workers, end_workers_at_exit


def loader_of(**options):
    return DataLoader(torch.arange(8.0, device="cpu"), batch_size=2, **options)


def started_by(loader):
    before = set(active_children())
    batches = iter(loader)
    next(batches)
    return set(active_children()) - before


@pytest.fixture
def at_exit(monkeypatch):
    """What is to be called when the process ends."""
    registered = []
    monkeypatch.setattr(atexit, "register", registered.append)
    return registered


def test_workers_leave_and_others_start():
    loader = loader_of(num_workers=2, persistent_workers=True)
    for _ in range(2):
        workers = started_by(loader)
        assert len(workers) == 2
        end_workers(loader)
        assert not any(worker.is_alive() for worker in workers)
        assert all(worker.exitcode == 0 for worker in workers)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    end_workers(loader)


@pytest.mark.parametrize("loader", [loader_of(), object()], ids=["no workers", "no loader"])
def test_without_workers_nothing_happens(loader):
    end_workers(loader)


def test_at_exit(at_exit):
    loader = loader_of(num_workers=1, persistent_workers=True)
    workers = started_by(loader)
    end_workers_at_exit(loader)
    assert all(worker.is_alive() for worker in workers)
    at_exit[-1]()
    assert not any(worker.is_alive() for worker in workers)


def test_a_loader_is_not_kept_for_it(at_exit):
    loader = loader_of()
    known = weakref.ref(loader)
    end_workers_at_exit(loader)
    del loader
    gc.collect()
    assert known() is None
    at_exit[-1]()


def test_a_run_registers_once_and_behind_torch(at_exit):
    """With its first batch, when the workers are there: what is registered last is called first."""
    pytest.importorskip("mmengine")
    from mmengine.registry import HOOKS

    import swin_backbone.openmmlab  # noqa: F401  (registers it)

    loader = loader_of(num_workers=1, persistent_workers=True)
    hook = HOOKS.build({"type": "EndWorkersHook"})
    runner = SimpleNamespace(train_dataloader=loader)
    hook.before_train(runner)
    assert not at_exit
    workers = started_by(loader)
    for step in range(3):
        hook.before_train_iter(runner, step)
    assert len([one for one in at_exit if "end_workers_at_exit" in one.__qualname__]) == 1
    at_exit[-1]()
    assert not any(worker.is_alive() for worker in workers)
