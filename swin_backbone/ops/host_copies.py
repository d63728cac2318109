"""Copies from the host for which nothing waits."""

from __future__ import annotations

from typing import TypeVar

import torch

#: A tensor, or what is pinned and moved as one.
Copied = TypeVar("Copied")


def ready_for(host: Copied, device: torch.device) -> Copied:
    """``host``, which lies on the CPU, in memory from which a copy to ``device`` does not wait."""
    return host.pin_memory() if device.type == "cuda" else host


def copied_to(host: Copied, device: torch.device) -> Copied:
    """``host``, which lies on the CPU, on a device. A copy from memory that the system may move
    waits for all that a GPU has to do; memory that is pinned is let go when the copy is done."""
    return ready_for(host, device).to(device, non_blocking=True)
