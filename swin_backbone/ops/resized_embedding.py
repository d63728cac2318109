"""Absolute position embedding of one map, for another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .symbolic_shapes import contiguous, known_zero


def resize_position_embedding(
    embedding: Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Interpolate an absolute position embedding to another map (bicubic, as the original's
    dense prediction code does).

    Args:
        embedding: (1, rows * columns, C), learned on a map of ``grid`` tokens.
        grid: rows and columns of that map.
        size: rows and columns of the map that needs it.

    Returns:
        (1, size[0], size[1], C) in the dtype of ``embedding``; its very values if the sizes
        are equal.
    """
    embedding = embedding.unflatten(1, grid)
    if known_zero(size[0] - grid[0], size[1] - grid[1]):
        return embedding
    channels_first = embedding.permute(0, 3, 1, 2).contiguous()
    resized = F.interpolate(channels_first, size=size, mode="bicubic", align_corners=False)
    return contiguous(resized.permute(0, 2, 3, 1))
