"""From one stage to the next: fewer tokens, more channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..ops import merge_norm_linear
from .corner_pad import corner_pad


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

    KERNEL = (2, 2)

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) to (B, ceil(H / stride), ceil(W / stride), out_channels)."""
        if self.stride == (2, 2) and type(self.norm) is nn.LayerNorm:
            norm = self.norm
            return merge_norm_linear(x, norm.weight, norm.bias, norm.eps, self.reduction.weight)
        (stride_h, stride_w), (height, width) = self.stride, x.shape[1:3]
        rows, columns = -(-height // stride_h), -(-width // stride_w)
        x = corner_pad(x, self.KERNEL, self.stride, dims=(1, 2))
        neighbours = [
            x[:, i::stride_h, j::stride_w][:, :rows, :columns] for i in (0, 1) for j in (0, 1)
        ]
        merged = torch.stack(neighbours, dim=-1).flatten(-2)
        return self.reduction(self.norm(merged))
