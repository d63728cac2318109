"""After a capture that failed: what torch leaves as it was during the capture.

``CUDAGraph.capture_end`` raises before it tells the allocator that the capture is over, so that
memory would be kept back for it for good, and before it tells the generator of random numbers,
which would then refuse to draw any.
"""

from __future__ import annotations

import torch

from .choosing import choose


def _untried(function: object) -> bool | None:
    return None if callable(function) else False


def _nothing(device: int, pool: tuple[int, int]) -> None:
    """Where torch has no such function, memory is kept back: more is used, all else is right."""


_end = choose("torch._C._cuda_endAllocateToPool", _untried, _nothing)  # torch >= 2.7
_release = choose("torch._C._cuda_releasePool", _untried, _nothing)


def clean_up_after_capture(pool: tuple[int, int], stream: torch.cuda.Stream) -> None:
    """Make allocator and random numbers of a device usable after a capture that failed.

    Args:
        pool: in which the capture allocated.
        stream: on which it was.
    """
    device = stream.device.index
    if _end is not _nothing:
        _end(device, pool)
        _release(device, pool)
    with torch.cuda.device(device):
        number = torch.zeros(1, device=stream.device)
        # A capture that ends well tells the generator that it is over.
        with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
            number + 1
