"""The part of each map that belongs to its image, where a batch is padded to one size.

A valid area begins at the top left. Its sizes are (B, 2) integers, rows and columns of each image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.geometry.windows import as_kernels_read


def valid_pyramid(
    valid_sizes: Tensor, strides: Sequence[tuple[int, int]], device: torch.device
) -> list[Tensor]:
    """Valid sizes of the images and of each level's maps, as kernels read them.

    A token belongs to the image if a part of it does, so sizes are rounded up. They are computed
    where the images' are, on the host as a rule, and moved to the device together.

    Args:
        valid_sizes: (B, 2) rows and columns of each image, in pixels, of any integer dtype; see
            :func:`swin_backbone.ops.geometry.windows.as_kernels_read` for numbers out of range.
        strides: step from the pixels to the first level's tokens, and from each level to the next.
        device: where they are wanted.

    Returns:
        One more than there are strides, the images' first: (B, 2) int32, contiguous.
    """
    images = valid_sizes.shape[0]
    sizes = as_kernels_read(valid_sizes).repeat(
        2, 1
    )  # so that each level begins at a multiple of 16 bytes
    levels = [sizes]
    for stride in strides:
        sides = [-(-side // step) for side, step in zip(sizes.unbind(1), stride, strict=True)]
        sizes = torch.stack(sides, dim=1)
        levels.append(sizes)
    moved = torch.stack(levels).to(device, non_blocking=True)
    return [level[:images] for level in moved.unbind()]


def warn_of_missing_sizes(images: int) -> None:
    """Say that a batch came without sizes; not for one image, which has no padding as a rule.

    Python shows a warning once for each place that gives it.
    """
    if images > 1 and not torch.compiler.is_compiling():
        warnings.warn(
            "no valid_sizes came with the batch, so all of it counts as image; "
            "see SwinBackbone.forward for where they are looked for",
            stacklevel=2,
        )
