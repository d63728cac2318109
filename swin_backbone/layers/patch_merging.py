"""From one stage to the next: fewer tokens, more channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .corner_pad import corner_pad
from .packing import Packing, join

KERNEL = (2, 2)


class PatchMerging(nn.Module):
    """Concatenate each 2x2 neighbourhood of tokens and project it (Swin Transformer, section
    3.1, "patch merging").

    The weights take the 4 C inputs in the order of ``nn.Unfold``: all four neighbours of
    channel 0, then of channel 1. It is the order of OpenMMLab's checkpoints and optimizer
    states; :mod:`swin_backbone.checkpoints` permutes weights that were trained with another.

    Args:
        in_channels: C.
        out_channels: channels of a merged token.
        stride: step between neighbourhoods, in tokens.
        norm_layer: makes the norm before the projection; ``None`` for no norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: tuple[int, int] = (2, 2),
        norm_layer: Callable[[int], nn.Module] | None = nn.LayerNorm,
    ):
        super().__init__()
        self.stride = stride
        merged = 4 * in_channels
        self.norm = norm_layer(merged) if norm_layer is not None else nn.Identity()
        self.reduction = nn.Linear(merged, out_channels, bias=False)

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """(B, H, W, in_channels) to (B, ceil(H / stride), ceil(W / stride), out_channels), or the
        tokens (T, in_channels) of packed images to fewer."""
        if packing is None:
            merged = merge_neighbours(x, self.stride)
        else:
            merged = join(merge_neighbours(m[None], self.stride)[0] for m in packing.split(x))
        return self.reduction(self.norm(merged))


def merge_neighbours(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Concatenate 2x2 neighbourhoods, laid at every ``stride``, channel by channel.

    Args:
        x: (B, H, W, C).
        stride: step between neighbourhoods, in tokens.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), 4 * C), in the order of ``nn.Unfold``.
    """
    (stride_h, stride_w), (height, width) = stride, x.shape[1:3]
    rows, columns = -(-height // stride_h), -(-width // stride_w)
    x = corner_pad(x, KERNEL, stride, dims=(1, 2))
    neighbours = [
        x[:, i::stride_h, j::stride_w][:, :rows, :columns] for i in (0, 1) for j in (0, 1)
    ]
    return torch.stack(neighbours, dim=-1).flatten(-2)
