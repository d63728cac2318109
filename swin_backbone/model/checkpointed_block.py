"""What blocks of both versions have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import MAPS, LowPrecisionCopies, TokenLayout
from .continuous_position_bias import ContinuousPositionBias
from .drop_path import DropPath
from .mlp import Mlp
from .plain_modules import is_bare, is_idle
from .window_attention import WindowAttention
from .window_attention_v2 import WindowAttentionV2

#: Modules of a block that draw no random numbers by themselves.
QUIET = (
    nn.Linear,
    nn.LayerNorm,
    nn.GELU,
    nn.ReLU,
    nn.Sequential,
    nn.Identity,
    Mlp,
    WindowAttention,
    WindowAttentionV2,
    ContinuousPositionBias,
)


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
            # To draw the same numbers again, the generator's state is read, which is not captured.
            draws = self.draws(layout)
            return checkpoint(
                self._forward, x, layout, copies, use_reentrant=False, preserve_rng_state=draws
            )
        return self._forward(x, layout, copies)

    def draws(self, layout: TokenLayout = MAPS) -> bool:
        """Whether a call may draw random numbers: unless all in it is known not to."""
        inside = [module for module in self.modules() if module is not self]
        return not all(self._is_quiet(module, layout) for module in inside)

    def _is_quiet(self, module: nn.Module, layout: TokenLayout) -> bool:
        if isinstance(module, DropPath):
            drawn = layout.path_scales is not None or not module.is_dropping()
            return drawn and is_bare(module, DropPath)
        if isinstance(module, nn.Dropout):
            return is_idle(module)
        if getattr(module, "attn_drop_rate", 0.0) > 0.0 and module.training:
            return False
        return type(module) in QUIET and is_bare(module, type(module))
