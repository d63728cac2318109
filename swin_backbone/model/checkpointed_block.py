"""What blocks of both versions have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import MAPS, LowPrecisionCopies, TokenLayout


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
        layout: TokenLayout = MAPS,
        copies: LowPrecisionCopies | None = None,
    ) -> Tensor:
        """(B, H, W, C) to (B, H, W, C), or tokens (T, C) of variable length to the same.

        What is outside the valid part of a map means nothing. ``layout`` says where the tokens lie,
        and holds the scales of drop path where they have been drawn already; ``copies`` are those
        of the weights in the compute dtype, where they have been made already.
        """
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, layout, copies, use_reentrant=False)
        return self._forward(x, layout, copies)
