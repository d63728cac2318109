"""From image to tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import corner_pad, product_dtype
from .norm import apply_norm
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
        if x.is_cuda:  # a convolution would write channels first, to be copied to the back
            return self._project(self._patches(x))
        x = corner_pad(x, self.patch_size, self.patch_size, dims=(2, 3))
        return apply_norm(self.norm, self.projection(x).permute(0, 2, 3, 1))

    def pack(self, images: Sequence[Tensor]) -> Tensor:
        """Images (in_channels, H, W) of any sizes to one list of tokens (T, embed_dims)."""
        return self._project(join(self._patches(image[None])[0] for image in images))

    def pack_batch(self, x: Tensor, places: Tensor) -> Tensor:
        """A padded batch (B, in_channels, H, W), zero outside its images, to the tokens of these.

        Args:
            x: the batch.
            places: (T,) int64, where each token's patch lies in (B, ceil(H / patch), ...).

        Returns:
            (T, embed_dims).
        """
        return self._project(self._patches(x).flatten(0, 2).index_select(0, places))

    def _patches(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, rows, columns, in_channels * patch rows * columns)."""
        rows, columns = self.patch_size
        x = corner_pad(x, self.patch_size, self.patch_size, dims=(2, 3))
        patches = x.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
        return patches.permute(0, 2, 4, 1, 3, 5).to(product_dtype(x)).flatten(3)

    def _project(self, patches: Tensor) -> Tensor:
        """A convolution whose kernel is its stride is a linear layer on patches."""
        weight, bias = self.projection.weight, self.projection.bias
        return apply_norm(self.norm, F.linear(patches, weight.flatten(1), bias))
