"""How maps (B, C, H, W) lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether a map is channels-last; of one pixel, whose elements lie alike, as strides say."""
    if x.is_contiguous() and x.stride(3) == 1:
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


def pitch_of(x: Tensor) -> int | None:
    """Elements from one pixel to the next, where pixels lie in order and each one's channels side
    by side: a channels-last map, or a part of the channels of one, as is the gradient of what was
    concatenated. ``None`` for another layout."""
    if is_channels_last(x):
        return x.shape[1]
    _, channels, height, width = x.shape
    of_image, of_channel, of_row, pitch = x.stride()
    if of_channel != 1 or pitch < channels:
        return None
    in_order = of_row == width * pitch and of_image == height * of_row
    return pitch if in_order else None
