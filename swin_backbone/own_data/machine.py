"""What a machine can train: sides of crops, images at a time, steps."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

#: Bytes of a GPU's memory for an image of 512x512 in training, a UPerNet's with Swin-B in float32.
BYTES_PER_IMAGE = 4 * 2**30


class Machine(NamedTuple):
    """What there is to train on.

    Attributes:
        name: of the card, or ``'CPU'``.
        memory: of the card, in bytes; 0 without one.
        workers: processes that load data.
    """

    name: str
    memory: int
    workers: int

    @property
    def largest_side(self) -> int:
        """Of a crop, in pixels."""
        return 512 if self.memory else 256

    def batch(self, pixels: int) -> int:
        """Images of so many pixels at a time; at least 2, for batch norm."""
        if not self.memory:
            return 2
        return max(2, min(16, self.memory * 512**2 // (BYTES_PER_IMAGE * pixels) // 2 * 2))

    def steps(self, images: int, batch: int) -> int:
        """Of a training run: 40 epochs on a GPU, 10 on a CPU, within what takes hours there."""
        epochs, least, most = (40, 1000, 20000) if self.memory else (10, 200, 1000)
        wanted = max(least, min(most, images * epochs // batch))
        return wanted // 100 * 100


def machine_at_hand() -> Machine:
    """The GPU that PyTorch uses by default, or the CPU."""
    workers = min(4, (os.cpu_count() or 1) // 2)
    if not torch.cuda.is_available():
        return Machine("CPU", 0, workers)
    properties = torch.cuda.get_device_properties(0)
    return Machine(properties.name, properties.total_memory, workers)


def crop_side(machine: Machine, sizes: list[tuple[int, int]]) -> int:
    """Side of a square crop: a multiple of 32 that half of the images hold, up to the machine's."""
    shorter = sorted(min(size) for size in sizes)
    side = shorter[(len(shorter) - 1) // 2] // 32 * 32
    return max(64, min(machine.largest_side, side))
