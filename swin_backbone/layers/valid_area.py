"""The part of each map that belongs to its image, where a batch is padded to one size.

A valid area begins at the top left. Its sizes are (B, 2) integers, rows and columns of each image.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..ops import valid_tokens


def clear_padding(x: Tensor, valid_sizes: Tensor | None, channels_axis: int = -1) -> Tensor:
    """Set what lies outside the valid areas to zero, whatever it was.

    Args:
        x: (B, H, W, C), or (B, C, H, W) with ``channels_axis=1``.
        valid_sizes: (B, 2) rows and columns; ``None`` if all of ``x`` is valid.
        channels_axis: where the channels are.

    Returns:
        A tensor like ``x``, or ``x`` itself where there is nothing to clear.
    """
    if valid_sizes is None:
        return x
    height, width = x.shape[2:] if channels_axis == 1 else x.shape[1:3]
    return x.masked_fill(~valid_tokens(height, width, valid_sizes).unsqueeze(channels_axis), 0)


def shrink_sizes(valid_sizes: Tensor | None, stride: tuple[int, int]) -> Tensor | None:
    """Valid sizes of a map that has one token for every ``stride`` of another: rounded up, as a
    token belongs to the image if a part of it does.

    Args:
        valid_sizes: (B, 2) rows and columns, or ``None``.
        stride: rows and columns of the other map for each of the new one.
    """
    if valid_sizes is None:
        return None
    sides = [-(-side // step) for side, step in zip(valid_sizes.unbind(1), stride, strict=True)]
    return torch.stack(sides, dim=1)


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
