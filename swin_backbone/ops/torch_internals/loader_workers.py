"""Workers of a ``DataLoader`` that keeps them from epoch to epoch."""

from __future__ import annotations

import atexit
import weakref

from torch.utils.data import DataLoader


def end_workers(loader: DataLoader) -> None:
    """Tell the workers to leave, and wait until they have; without any, nothing happens. The next
    iteration over the loader starts others."""
    end = getattr(getattr(loader, "_iterator", None), "_shutdown_workers", None)
    if end is not None:
        end()
        loader._iterator = None


def end_workers_at_exit(loader: DataLoader) -> None:
    """As Python exits, before torch waits for workers, to which torch 2.13 and earlier say nothing:
    with pinned memory a process then takes five seconds for each of them to end. To be called when
    there are workers: what is registered last is called first.
    """
    known = weakref.ref(loader)

    def end() -> None:
        found = known()
        if found is not None:
            end_workers(found)

    atexit.register(end)
