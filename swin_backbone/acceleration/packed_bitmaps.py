"""Masks that lie on the host as bytes, copied to a device as bits.

A step of eight images with 12 masks of 800x1344 each has 103 MB of them. As bytes, the host took 63
ms to put them into pinned memory (H200, 2026-11-30); a core packs them in 5, and bits are an eighth
of that to copy.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..ops.host_copies import copied_to

DTYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.bool_): torch.bool}


def bitmaps_on(device: torch.device, bitmaps: np.ndarray) -> Tensor:
    """``torch.from_numpy(bitmaps)`` on a device: zeros and ones as bits, anything else as it is.

    Args:
        device: where to.
        bitmaps: of any dtype and shape.
    """
    if device.type == "cpu" or not _is_of_bits(bitmaps):
        return copied_to(torch.from_numpy(np.ascontiguousarray(bitmaps)), device)
    packed = copied_to(torch.from_numpy(np.packbits(bitmaps)), device)
    return unpacked(packed, bitmaps.shape).view(DTYPES[bitmaps.dtype])


def _is_of_bits(bitmaps: np.ndarray) -> bool:
    if not bitmaps.size or bitmaps.dtype not in DTYPES:
        return False
    return bitmaps.dtype == np.bool_ or bitmaps.max() <= 1


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
