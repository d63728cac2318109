"""From image to tokens."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .corner_pad import corner_pad


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
