"""What blocks of both versions have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import Packing
from .drop_path import Factors


class CheckpointedBlock(nn.Module):
    """A block, whose ``_forward`` a subclass defines.

    Args:
        with_cp: recompute the block in the backward pass instead of storing what it computed.
    """

    def __init__(self, with_cp: bool):
        super().__init__()
        self.with_cp = with_cp

    def forward(
        self,
        x: Tensor,
        valid_sizes: Tensor | None = None,
        packing: Packing | None = None,
        factors: Factors | None = None,
    ) -> Tensor:
        """(B, H, W, C) to (B, H, W, C), or the tokens (T, C) of packed images to the same; what is
        outside ``valid_sizes`` (B, 2) means nothing. ``factors`` are those of stochastic depth,
        where they have been drawn already."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, valid_sizes, packing, factors, use_reentrant=False)
        return self._forward(x, valid_sizes, packing, factors)
