"""Images of different sizes as one list of tokens, without padding between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the tokens of each image lie in a list of tokens (T, C): row by row, in order.

    Args:
        sizes: rows and columns of each image's map, in tokens.
        mask_padding: whether tokens that only fill up windows are no keys.
    """

    sizes: tuple[tuple[int, int], ...]
    mask_padding: bool = False

    @property
    def counts(self) -> list[int]:
        """Tokens of each image."""
        return [rows * columns for rows, columns in self.sizes]

    def shrink(self, stride: tuple[int, int]) -> Packing:
        """The packing of maps that have a token for every ``stride`` of these, rounded up."""
        sizes = tuple(
            (-(-rows // stride[0]), -(-columns // stride[1])) for rows, columns in self.sizes
        )
        return Packing(sizes, self.mask_padding)

    def split(self, tokens: Tensor) -> list[Tensor]:
        """(T, C) to the map (H, W, C) of each image; views."""
        parts = tokens.split(self.counts)
        return [part.unflatten(0, size) for part, size in zip(parts, self.sizes, strict=True)]

    def to_batch(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(T, C) to (B, size[0], size[1], C), zeros outside the images.

        Raises:
            ValueError: if a map is larger than ``size``.
        """
        for own in self.sizes:
            if own[0] > size[0] or own[1] > size[1]:
                raise ValueError(f"a map of {own} tokens does not fit into a batch of {size}")
        padded = [
            F.pad(part, (0, 0, 0, size[1] - part.shape[1], 0, size[0] - part.shape[0]))
            for part in self.split(tokens)
        ]
        return torch.stack(padded)


def map_size(x: Tensor, packing: Packing | None) -> tuple[int, int]:
    """Rows and columns of the maps that windows lie on, where these depend on them.

    Packed images have maps of many sizes, and windows that depend on none: see
    ``SwinBackbone``'s ``small_maps``.
    """
    return x.shape[1:3] if packing is None else (2**31, 2**31)


def join(maps: Iterable[Tensor]) -> Tensor:
    """Maps (H, W, C) of any sizes to one list of tokens (T, C)."""
    return torch.cat([part.flatten(0, 1) for part in maps])
