"""One Swin Transformer block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .drop_path import DropPath
from .mlp import Mlp
from .window_attention import WindowAttention


class SwinBlock(nn.Module):
    """Pre-norm residual block of window attention and perceptron (Swin Transformer, equation
    3).

    Args:
        attention: the attention of this block, regular or shifted.
        embed_dims: channels of a token.
        hidden_dims: hidden channels of the perceptron.
        norm_layer: makes a norm.
        act_layer: makes the activation.
        drop_rate: dropout in the perceptron.
        drop_path_rate: stochastic depth of both residual branches.
        with_cp: recompute the block in the backward pass instead of storing what it computed.
    """

    def __init__(
        self,
        attention: WindowAttention,
        embed_dims: int,
        hidden_dims: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
    ):
        super().__init__()
        self.with_cp = with_cp
        self.norm1 = norm_layer(embed_dims)
        self.attn = attention
        self.norm2 = norm_layer(embed_dims)
        self.mlp = Mlp(embed_dims, hidden_dims, act_layer, drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def attention_input(self, x: Tensor) -> Tensor:
        """What the attention of this block gets where the block gets ``x``."""
        return self.norm1(x)

    def _forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.attention_input(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
