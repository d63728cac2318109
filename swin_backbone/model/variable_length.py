"""What layers do with images of different sizes in one list of tokens."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..ops import Packing


def map_size(x: Tensor, packing: Packing | None) -> tuple[int, int]:
    """Rows and columns of the maps that windows lie on, where these depend on them.

    Packed images have maps of many sizes, and windows that depend on none: see
    ``SwinBackbone``'s ``small_maps``.
    """
    return x.shape[1:3] if packing is None else (2**31, 2**31)


def join(maps: Iterable[Tensor]) -> Tensor:
    """Maps (H, W, C) of any sizes to one list of tokens (T, C)."""
    return torch.cat([part.flatten(0, 1) for part in maps])
