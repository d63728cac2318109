"""Masks that lie on the host as bytes, copied to a device as bits.

A step of eight images with 12 masks of 800x1344 each has 103 MB of them. As bytes, the host took 63
ms to put them into pinned memory (H200, 2026-11-30); one core looks through them and packs them in
8, and bits are an eighth of that to copy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ops.host_copies import copied_to

if TYPE_CHECKING:
    import numpy

#: In which zeros and ones may come, by NumPy's names.
DTYPES = ("uint8", "bool")


def bitmaps_on(device: torch.device, bitmaps: numpy.ndarray) -> Tensor:
    """``torch.from_numpy(bitmaps)`` on a device: zeros and ones as bits, anything else as it is.

    Args:
        device: where to.
        bitmaps: of any dtype and shape.
    """
    import numpy

    host = torch.from_numpy(numpy.ascontiguousarray(bitmaps))
    if device.type == "cpu" or not bitmaps.size:
        return host.to(device)
    if not _is_of_bits(bitmaps):
        return copied_to(host, device)
    packed = copied_to(torch.from_numpy(numpy.packbits(bitmaps)), device)
    return unpacked(packed, bitmaps.shape).view(host.dtype)


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
