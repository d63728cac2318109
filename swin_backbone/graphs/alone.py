"""One user of a graph at a time: its inputs, and what it computes, have one place in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Alone:
    """Who may use graphs that share memory: one thread at a time, on each device's stream of the
    first, so that its kernels run after those of the calls before it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    @contextmanager
    def asked(self) -> Iterator[bool]:
        """Whether the thread that asks is alone, as it then is until this context ends."""
        alone = self._lock.acquire(blocking=False)
        try:
            yield alone
        finally:
            if alone:
                self._lock.release()

    def keeps_order(self, device: torch.device) -> bool:
        """Whether the current stream is the one that was current at first."""
        if device.type != "cuda":
            return True
        current = torch.cuda.current_stream(device)
        return self._streams.setdefault(device, current) == current
