"""One Swin Transformer V2 block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..ops import LowPrecisionCopies, TokenLayout
from .apply_norm import apply_norm
from .checkpointed_block import CheckpointedBlock
from .drop_path import DropPath
from .mlp import Mlp
from .window_attention_v2 import WindowAttentionV2


class SwinBlockV2(CheckpointedBlock):
    """Residual post-norm block of window attention and MLP (Swin Transformer V2,
    section 3.2): each branch is normed before it is added.

    Args:
        attention: the attention of this block, regular or shifted.
        embed_dims: channels of a token.
        hidden_dims: hidden channels of the MLP.
        norm_layer: makes a norm.
        act_layer: makes the activation.
        drop_rate: dropout in the MLP.
        drop_path_rate: stochastic depth of both residual branches.
        with_cp: recompute the block in the backward pass instead of storing what it computed.
        extra_norm: whether the main branch ends with a norm (section 3.2, for large models).
    """

    def __init__(
        self,
        attention: WindowAttentionV2,
        embed_dims: int,
        hidden_dims: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        extra_norm: bool = False,
    ):
        super().__init__(with_cp)
        self.attn = attention
        self.norm1 = norm_layer(embed_dims)
        self.mlp = Mlp(embed_dims, hidden_dims, act_layer, drop_rate)
        self.norm2 = norm_layer(embed_dims)
        self.drop_path = DropPath(drop_path_rate)
        self.norm3 = norm_layer(embed_dims) if extra_norm else nn.Identity()

    def attention_input(self, x: Tensor) -> Tensor:
        """What the attention of this block gets where the block gets ``x``: the same."""
        return x

    def _forward(self, x: Tensor, layout: TokenLayout, copies: LowPrecisionCopies | None) -> Tensor:
        first, second = layout.path_scales or (None, None)
        attended = self.attn(x, layout)
        x = x + self.drop_path(apply_norm(self.norm1, attended), layout, first)
        x = x + self.drop_path(apply_norm(self.norm2, self.mlp(x)), layout, second)
        return apply_norm(self.norm3, x)
