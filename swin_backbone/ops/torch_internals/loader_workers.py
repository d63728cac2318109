"""Workers of a ``DataLoader`` that keeps them from epoch to epoch."""

from __future__ import annotations

from torch.utils.data import DataLoader


def end_workers(loader: DataLoader) -> None:
    """Tell the workers to leave, and wait until they have; without any, nothing happens. The next
    iteration over the loader starts others.

    Left to the end of the process, with pinned memory, torch up to 2.13 tells them nothing and
    waits five seconds for each; from Python 3.12 on nothing can be told so late.
    """
    end = getattr(getattr(loader, "_iterator", None), "_shutdown_workers", None)
    if end is not None:
        end()
        loader._iterator = None
