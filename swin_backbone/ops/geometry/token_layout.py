"""Where the tokens of a batch lie, and what drop path does to them: one object for all layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .packing import Packing, Size
from .windows import as_kernels_read, clear_padding

#: Scales of a block's two residual branches: (B,) or (T,) float32 each, 0 where one is dropped.
PathScales = tuple[Tensor, Tensor]


class TokenLayout:
    """Where the tokens of a batch lie: maps (B, H, W, C), of which a part may be padding; or tokens
    (T, C) of images of different sizes, one after the other (variable length).

    It is no dataclass and no tuple, so that wrappers that cast or move what they find in a module's
    arguments leave it as it is.

    Args:
        valid_sizes: for maps: (B, 2) int32, the rows and columns of each that belong to its image;
            ``None`` for all of it.
        packing: for variable length: where the tokens of each image lie.
        path_scales: what drop path multiplies a block's two residual branches with, where it has
            been drawn already; ``None`` for blocks that draw by themselves.
    """

    __slots__ = ("packing", "path_scales", "valid_sizes")

    def __init__(
        self,
        valid_sizes: Tensor | None = None,
        packing: Packing | None = None,
        path_scales: PathScales | None = None,
    ):
        self.valid_sizes = valid_sizes
        self.packing = packing
        self.path_scales = path_scales

    def with_path_scales(self, path_scales: PathScales | None) -> TokenLayout:
        """The same places, with what drop path has drawn for one block."""
        if path_scales is None and self.path_scales is None:
            return self
        return TokenLayout(self.valid_sizes, self.packing, path_scales)

    @property
    def hides_padding(self) -> bool:
        """Whether tokens that only fill up windows are keys for no one."""
        return self.valid_sizes is not None if self.packing is None else self.packing.mask_padding

    def map_size(self, x: Tensor) -> Size | None:
        """Rows and columns of the maps; ``None`` for variable length, which has many."""
        return tuple(x.shape[1:3]) if self.packing is None else None

    def num_images(self, x: Tensor) -> int:
        """B."""
        return x.shape[0] if self.packing is None else len(self.packing.sizes)

    def spread(self, values: Tensor) -> Tensor:
        """A value for each image (B,) to one for each row of ``x``'s first axis: (B,) or (T,)."""
        return values if self.packing is None else self.packing.spread(values)

    def clear(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C), or tokens (T, C), with zeros where no image is."""
        return clear_padding(x, self.valid_sizes)

    def kernel_tables(
        self, window_size: Size, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """What attention kernels read beside the tokens: valid sizes, and the table of windows."""
        if self.packing is None:
            return as_kernels_read(self.valid_sizes), None
        windows = self.packing.windows(window_size, device)
        return windows if self.packing.mask_padding else None, windows

    def to_maps(self, x: Tensor) -> Tensor | list[Tensor]:
        """Channels first: (B, C, H, W) of maps, or of variable length in a batch, with zeros
        outside the images; a list of (C, H, W) of variable length without a batch."""
        if self.packing is None:
            return x.permute(0, 3, 1, 2)
        if self.packing.batch_size is None:
            return [part.permute(2, 0, 1) for part in self.packing.split(x)]
        return self.packing.to_batch(x, self.packing.batch_size).permute(0, 3, 1, 2)


#: Maps of which every token belongs to an image.
MAPS = TokenLayout()


def map_layouts(
    valid_sizes: Tensor | None, strides: Sequence[Size], device: torch.device
) -> list[TokenLayout]:
    """Layouts of a batch's images (B, channels, H, W), and of the maps of each level.

    A token belongs to the image if a part of it does, so sizes are rounded up. They are computed
    where the images' are, on the host as a rule, and moved to the device together.

    Args:
        valid_sizes: (B, 2) rows and columns of each image, in pixels, of any integer dtype, see
            :func:`swin_backbone.ops.geometry.windows.as_kernels_read` for numbers out of range;
            ``None`` for all of the batch.
        strides: step from the pixels to the first level's tokens, and from each level to the next.
        device: where they are wanted.

    Returns:
        One more than there are strides, the images' first.
    """
    if valid_sizes is None:
        return [MAPS] * (len(strides) + 1)
    images = valid_sizes.shape[0]
    # Twice, so that each level begins at a multiple of 16 bytes.
    sizes = as_kernels_read(valid_sizes).repeat(2, 1)
    levels = [sizes]
    for stride in strides:
        sides = [-(-side // step) for side, step in zip(sizes.unbind(1), stride, strict=True)]
        sizes = torch.stack(sides, dim=1)
        levels.append(sizes)
    moved = torch.stack(levels).to(device, non_blocking=True)
    return [TokenLayout(level[:images]) for level in moved.unbind()]
