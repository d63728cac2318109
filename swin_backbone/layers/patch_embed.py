"""From image to tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .corner_pad import corner_pad
from .packing import join


class PatchEmbed(nn.Module):
    """Split an image into patches that do not overlap, and project each (Swin Transformer,
    section 3.1, "patch partition" and "linear embedding").

    Args:
        in_channels: channels of the image.
        embed_dims: channels of a token.
        patch_size: rows and columns of a patch, in pixels.
        norm_layer: makes the norm after the projection; ``None`` for no norm.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: tuple[int, int],
        norm_layer: Callable[[int], nn.Module] | None,
    ):
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)
        self.norm = norm_layer(embed_dims) if norm_layer is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, ceil(H / patch), ceil(W / patch), embed_dims)."""
        x = corner_pad(x, self.patch_size, self.patch_size, dims=(2, 3))
        return self.norm(self.projection(x).permute(0, 2, 3, 1))

    def pack(self, images: Sequence[Tensor]) -> Tensor:
        """Images (in_channels, H, W) of any sizes to one list of tokens (T, embed_dims).

        A convolution whose kernel is its stride is a linear layer on patches, so that all images
        go through it at once.
        """
        patches = join(self._patches(image) for image in images)
        weight, bias = self.projection.weight, self.projection.bias
        return self.norm(F.linear(patches, weight.flatten(1), bias))

    def _patches(self, image: Tensor) -> Tensor:
        """(in_channels, H, W) to (rows, columns, in_channels * patch rows * patch columns)."""
        rows, columns = self.patch_size
        image = corner_pad(image[None], self.patch_size, self.patch_size, dims=(2, 3))[0]
        patches = image.unflatten(1, (-1, rows)).unflatten(3, (-1, columns))
        return patches.permute(1, 3, 0, 2, 4).flatten(2)
