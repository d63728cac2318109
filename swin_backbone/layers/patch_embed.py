"""From image to tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import product_dtype
from .corner_pad import corner_pad
from .norm import apply_norm


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
        project = self._project_patches if x.is_cuda else self._convolve
        return apply_norm(self.norm, project(x))

    def _convolve(self, x: Tensor) -> Tensor:
        return self.projection(x).permute(0, 2, 3, 1)

    def _project_patches(self, x: Tensor) -> Tensor:
        """The same as a product: kernels that do not overlap see each pixel once.

        A convolution would write channels first, and have them copied to the back.
        """
        rows, columns = self.patch_size
        patches = x.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
        patches = patches.permute(0, 2, 4, 1, 3, 5).to(product_dtype(x)).flatten(3)
        return F.linear(patches, self.projection.weight.flatten(1), self.projection.bias)
