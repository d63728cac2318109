"""Absolute position embedding for maps of any size."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import TokenLayout, join
from ..ops.resized_embedding import resize_position_embedding
from ..ops.symbolic_shapes import contiguous

#: Slope of cubic convolution at distance one, PyTorch's.
CUBIC = -0.75


def position_embedding_for(
    embedding: Tensor, grid: tuple[int, int], x: Tensor, layout: TokenLayout
) -> Tensor:
    """What to add to the first level's tokens.

    Args:
        embedding: (1, rows * columns, C), learned on a map of ``grid`` tokens.
        grid: rows and columns of that map.
        x: (B, H, W, C), or of variable length (T, C).
        layout: where the tokens lie.

    Returns:
        (1 or B, H, W, C), or (T, C): for each image the embedding interpolated to its own size.
    """
    if layout.packing is not None:
        sizes = layout.packing.sizes
        return join(resize_position_embedding(embedding, grid, size)[0] for size in sizes)
    size = tuple(x.shape[1:3])
    if layout.valid_sizes is None:
        return resize_position_embedding(embedding, grid, size)
    return embed_valid_areas(embedding, grid, size, layout.valid_sizes)


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
    rows = _cubic_weights(grid[0], size[0], valid_sizes[:, 0]).to(embedding.dtype)
    columns = _cubic_weights(grid[1], size[1], valid_sizes[:, 1]).to(embedding.dtype)
    channels = embedding.shape[-1]
    x = rows @ embedding.view(grid[0], grid[1] * channels)  # (B, size[0], grid[1] * C)
    x = contiguous(x.unflatten(-1, (grid[1], channels)).transpose(1, 2))
    x = torch.bmm(columns, x.flatten(2)).unflatten(-1, (size[0], channels))
    return contiguous(x.transpose(1, 2))


def _cubic_weights(learned: int, size: int, valid: Tensor) -> Tensor:
    """What each of ``learned`` positions gives to each of ``size``, of which ``valid`` (B,) count:
    cubic convolution, as :func:`torch.nn.functional.interpolate` does it.

    A product with it does for any number of valid positions what a call for each image would do,
    and asks for none of these numbers, which are on the device, and which a trace does not know.

    Returns:
        float64 (B, size, learned); zeros from ``valid`` on.
    """
    position = torch.arange(size, device=valid.device)
    scale = learned / valid.clamp(1, size).double()
    source = (position + 0.5) * scale[:, None] - 0.5
    offset = torch.arange(-1, 3, device=valid.device)
    first = source.floor()
    distance = ((source - first)[..., None] - offset).abs()
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * CUBIC - 4 * CUBIC
    weight = torch.where(distance <= 1, near, far)
    taken = (first[..., None] + offset).clamp(0, learned - 1)
    weight = (taken[..., None] == torch.arange(learned, device=valid.device)) * weight[..., None]
    return weight.sum(dim=-2) * (position < valid[:, None])[..., None]
