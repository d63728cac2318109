"""From image to tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..ops import (
    MAPS,
    LinearParameters,
    TokenLayout,
    corner_pad,
    cut_patches,
    embed_patches,
    join,
    project,
    project_patches,
)
from .apply_norm import apply_norm
from .plain_modules import norm_parameters, patch_parameters


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

    def input_dtype(self) -> torch.dtype | None:
        """The dtype that images have to have outside autocast; ``None`` where the projection is not
        torch's own layer, which may cast."""
        if type(self) is not PatchEmbed or type(self.projection) is not nn.Conv2d:
            return None  # such as one that is sharded
        return self.projection.weight.dtype

    def forward(self, x: Tensor | Sequence[Tensor], layout: TokenLayout = MAPS) -> Tensor:
        """Images to tokens.

        Args:
            x: (B, in_channels, H, W); or images (in_channels, H, W) of any sizes, whose tokens are
                of variable length.
            layout: where the tokens will lie. Those of variable length are taken out of a batch
                where ``x`` is one, which has to be zero outside its images.

        Returns:
            (B, ceil(H / patch), ceil(W / patch), embed_dims), or tokens (T, embed_dims) of
            variable length.
        """
        if not isinstance(x, Tensor):
            patches = (cut_patches(image[None], self.patch_size)[0] for image in x)
            return self._project(join(patches))
        if layout.packing is not None:
            patches = cut_patches(x, self.patch_size).flatten(0, 2)
            return self._project(patches.index_select(0, layout.packing.tables.batch))
        layer, norm = self._parameters_of_projection(), norm_parameters(self.norm)
        if layer is None:
            x = corner_pad(x, self.patch_size, self.patch_size, dims=(2, 3))
            return apply_norm(self.norm, self.projection(x).permute(0, 2, 3, 1))
        if norm is None or layer.bias is None:
            return apply_norm(self.norm, project_patches(x, *layer))
        return embed_patches(x, *layer, norm)

    def _project(self, patches: Tensor) -> Tensor:
        """(T, pixels of a patch) to (T, embed_dims)."""
        layer = self._parameters_of_projection()
        if layer is not None:
            return apply_norm(self.norm, project(patches, *layer))
        images = patches.unflatten(1, (-1, *self.patch_size))  # of one patch each
        return apply_norm(self.norm, self.projection(images).flatten(1))

    def _parameters_of_projection(self) -> LinearParameters | None:
        return patch_parameters(self.projection, self.patch_size)
