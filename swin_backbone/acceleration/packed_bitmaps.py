"""Masks that lie on the host as bytes, copied to a device as bits.

A step of eight images with 12 masks of 800x1344 each has 103 MB of them. As bytes, the host took 63
ms to put them into pinned memory (H200, 2026-11-30). Bits are an eighth of that; to look through
the bytes, pack them and pin the bits still took a core of that host most of it, so that threads do
it meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..ops.host_copies import ready_for

if TYPE_CHECKING:
    import numpy

#: In which zeros and ones may come, by NumPy's names.
DTYPES = ("uint8", "bool")
#: Images whose masks are prepared at a time.
THREADS = 4

#: Masks of an image on the host, and what they become on a device.
Masks = TypeVar("Masks")
Copied = TypeVar("Copied")


def bitmaps_on(device: torch.device, bitmaps: numpy.ndarray) -> Tensor:
    """``torch.from_numpy(bitmaps)`` on a device: zeros and ones as bits, anything else as it is.

    Args:
        device: where to.
        bitmaps: of any dtype and shape.
    """
    return prepared_bitmaps(device, bitmaps)()


def prepared_bitmaps(device: torch.device, bitmaps: numpy.ndarray) -> Callable[[], Tensor]:
    """The host's part of :func:`bitmaps_on`, for any thread.

    Returns:
        The rest, for which the host waits no longer: what gives the tensor.
    """
    import numpy

    host = torch.from_numpy(numpy.ascontiguousarray(bitmaps))
    if device.type == "cpu" or not bitmaps.size:
        return lambda: host.to(device)
    if not _is_of_bits(bitmaps):
        ready = ready_for(host, device)
        return lambda: ready.to(device, non_blocking=True)
    packed = ready_for(torch.from_numpy(numpy.packbits(bitmaps)), device)

    def rest() -> Tensor:
        return unpacked(packed.to(device, non_blocking=True), bitmaps.shape).view(host.dtype)

    return rest


@contextmanager
def prepared_by_threads(
    prepare: Callable[[torch.device, Masks], Callable[[], Copied]],
    device: torch.device,
    masks_of_images: Sequence[Masks],
) -> Iterator[list[Callable[[], Copied]]]:
    """Prepare the masks of several images at a time, while what is within goes on.

    Args:
        prepare: such as :func:`prepared_bitmaps`.
        device: where to.
        masks_of_images: each image's.

    Yields:
        For each image, what waits for its masks and gives them on the device, each time the same.
    """
    with_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="masks")
    try:
        coming = [with_threads.submit(_on_its_device, prepare, device, m) for m in masks_of_images]
        yield [_Once(future) for future in coming]
    finally:
        with_threads.shutdown(wait=False, cancel_futures=True)


def _on_its_device(prepare: Callable, device: torch.device, masks: object) -> Callable:
    """In a thread, whose own device is the first one: pinning would take memory there."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return prepare(device, masks)


class _Once:
    """Asks for what a thread prepares when it is wanted, and keeps it."""

    def __init__(self, future: Future):
        self._future = future

    def __call__(self) -> object:
        if self._future is not None:
            self._found, self._future = self._future.result()(), None
        return self._found


def _is_of_bits(bitmaps: numpy.ndarray) -> bool:
    name = bitmaps.dtype.name
    return name in DTYPES and (name == "bool" or bitmaps.max() <= 1)


def unpacked(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What ``numpy.packbits`` packed, which puts the first of eight into the highest bit.

    Args:
        packed: (ceil(N / 8),) uint8, of N elements.
        shape: the N elements' shape.

    Returns:
        uint8 of that shape, zeros and ones.
    """
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = (packed[:, None] >> places).bitwise_and_(1)
    return bits.flatten()[: math.prod(shape)].view(shape)
