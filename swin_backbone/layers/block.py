"""One Swin Transformer block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import LinearParameters, NormParameters, residual_attention, residual_mlp
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

    def _forward(self, x: Tensor) -> Tensor:
        if self._is_plain():
            return self._forward_halves(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _is_plain(self) -> bool:
        """Whether the halves are what :mod:`swin_backbone.ops.half_blocks` computes."""
        norms = type(self.norm1) is nn.LayerNorm and type(self.norm2) is nn.LayerNorm
        drops = self.training and self.mlp.drop.p > 0
        return norms and not drops and self.mlp.is_gelu

    def _forward_halves(self, x: Tensor) -> Tensor:
        attn, mlp, backend = self.attn, self.mlp, self.attn.backend
        x = residual_attention(
            x,
            _norm_parameters(self.norm1),
            _linear_parameters(attn.qkv),
            attn.relative_position_bias_table,
            _linear_parameters(attn.proj),
            attn.windows(),
            self.drop_path.sample(x),
            backend,
        )
        return residual_mlp(
            x,
            _norm_parameters(self.norm2),
            _linear_parameters(mlp.fc1),
            _linear_parameters(mlp.fc2),
            self.drop_path.sample(x),
            backend,
        )


def _norm_parameters(norm: nn.LayerNorm) -> NormParameters:
    return NormParameters(norm.weight, norm.bias, norm.eps)


def _linear_parameters(layer: nn.Linear) -> LinearParameters:
    return LinearParameters(layer.weight, layer.bias)
