"""From image to tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..ops import cut_patches, embed_patches, project, project_patches
from .norm import apply_norm
from .packing import join
from .parameters import norm_parameters


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
        layer, norm = self.projection, self.norm
        parameters = norm_parameters(norm)
        if parameters is not None:
            return embed_patches(x, layer.weight, layer.bias, parameters)
        return norm(project_patches(x, layer.weight, layer.bias))

    def pack(self, images: Sequence[Tensor]) -> Tensor:
        """Images (in_channels, H, W) of any sizes to one list of tokens (T, embed_dims)."""
        return self._project(join(cut_patches(image[None], self.patch_size)[0] for image in images))

    def pack_batch(self, x: Tensor, places: Tensor) -> Tensor:
        """A padded batch (B, in_channels, H, W), zero outside its images, to the tokens of these.

        Args:
            x: the batch.
            places: (T,) int64, where each token's patch lies in (B, ceil(H / patch), ...).

        Returns:
            (T, embed_dims).
        """
        patches = cut_patches(x, self.patch_size).flatten(0, 2)
        return self._project(patches.index_select(0, places))

    def _project(self, patches: Tensor) -> Tensor:
        projected = project(patches, self.projection.weight, self.projection.bias)
        return apply_norm(self.norm, projected)
