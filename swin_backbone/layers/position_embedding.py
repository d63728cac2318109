"""Absolute position embedding for maps of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.symbolic import contiguous, known_zero


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


def embed_valid_areas(
    embedding: Tensor, grid: tuple[int, int], size: tuple[int, int], valid_sizes: Tensor
) -> Tensor:
    """An absolute position embedding for a batch of images of different sizes.

    Args:
        embedding: (1, rows * columns, C), learned on a map of ``grid`` tokens.
        grid: rows and columns of that map.
        size: rows and columns of the batch's map.
        valid_sizes: (B, 2) rows and columns of each image, not more than ``size`` counting.

    Returns:
        (B, size[0], size[1], C): for each image the embedding interpolated to its own size, and
        zeros outside.
    """
    maps = []
    for own in valid_sizes.tolist():
        rows, columns = (min(side, most) for side, most in zip(own, size, strict=True))
        own_map = resize_position_embedding(embedding, grid, (rows, columns))
        maps.append(F.pad(own_map, (0, 0, 0, size[1] - columns, 0, size[0] - rows)))
    return torch.cat(maps)
