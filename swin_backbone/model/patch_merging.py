"""From one stage to the next: fewer tokens, more channels."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import (
    MAPS,
    Packing,
    TokenLayout,
    by_neighbour,
    join,
    merge_neighbours,
    merge_norm_linear,
    merge_packed,
)
from .apply_norm import apply_norm
from .plain_modules import linear_parameters, norm_parameters


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

    def forward(self, x: Tensor, layout: TokenLayout = MAPS) -> Tensor:
        """(B, H, W, in_channels) to (B, ceil(H / stride), ceil(W / stride), out_channels), or
        tokens (T, in_channels) of variable length to fewer; what is outside the valid part of a map
        counts as zero, as the border of an image by itself does."""
        tiles = self.stride == (2, 2) if layout.packing is None else _has_places(layout.packing)
        norm, layer = norm_parameters(self.norm), linear_parameters(self.reduction)
        if tiles and norm is not None and layer is not None and layer.bias is None:
            return merge_norm_linear(x, norm, layer.weight, layout)
        return self.reduction(self.norm(_merge(x, self.stride, layout)))


class PatchMergingV2(nn.Module):
    """Patch merging of Swin Transformer V2: the norm comes after the projection.

    Arguments and order of weights are those of :class:`PatchMerging`.
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
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)
        self.norm = norm_layer(out_channels) if norm_layer is not None else nn.Identity()

    def forward(self, x: Tensor, layout: TokenLayout = MAPS) -> Tensor:
        """(B, H, W, in_channels) to (B, ceil(H / stride), ceil(W / stride), out_channels), or
        tokens (T, in_channels) of variable length to fewer; what is outside the valid part of a map
        counts as zero, as the border of an image by itself does."""
        layer, packing = linear_parameters(self.reduction), layout.packing
        if layer is not None and packing is not None and _has_places(packing):
            merged = merge_packed(x, packing)
            return apply_norm(self.norm, F.linear(merged, by_neighbour(layer.weight), layer.bias))
        return apply_norm(self.norm, self.reduction(_merge(x, self.stride, layout)))


def _has_places(packing: Packing) -> bool:
    """Whether tables say where tokens go: neighbourhoods tile the maps, and nothing overlaps."""
    return packing.tables is not None and packing.tables.merged is not None


def _merge(x: Tensor, stride: tuple[int, int], layout: TokenLayout) -> Tensor:
    if layout.packing is None:
        return merge_neighbours(layout.clear(x), stride)
    return join(merge_neighbours(part[None], stride)[0] for part in layout.packing.split(x))
