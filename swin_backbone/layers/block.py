"""One Swin Transformer block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import LinearParameters, NormParameters, Packing, residual_attention, residual_mlp
from .drop_path import DropPath
from .mlp import Mlp
from .norm import apply_norm
from .packing import map_size
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

    def product_weights(self) -> list[Tensor]:
        """What the fused half-blocks read in the dtype of products."""
        attn, mlp = self.attn, self.mlp
        if attn.backend not in ("auto", "triton"):
            return []
        tensors = [attn.qkv.weight, attn.qkv.bias, attn.proj.weight, mlp.fc1.weight, mlp.fc2.weight]
        return [tensor for tensor in tensors if tensor is not None]

    def forward(
        self, x: Tensor, valid_sizes: Tensor | None = None, packing: Packing | None = None
    ) -> Tensor:
        """(B, H, W, C) to (B, H, W, C), or the tokens (T, C) of packed images to the same; what is
        outside ``valid_sizes`` (B, 2) means nothing."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, valid_sizes, packing, use_reentrant=False)
        return self._forward(x, valid_sizes, packing)

    def _forward(self, x: Tensor, valid_sizes: Tensor | None, packing: Packing | None) -> Tensor:
        if not self._is_plain():
            x = self._attend(x, valid_sizes, packing)
            return x + self.drop_path(self.mlp(self.norm2(x)), packing)
        return residual_mlp(
            self._attend_fused(x, valid_sizes, packing),
            _norm_parameters(self.norm2),
            _linear_parameters(self.mlp.fc1),
            _linear_parameters(self.mlp.fc2),
            self.drop_path.sample(x, packing),
            self.attn.backend,
        )

    def attention_input(self, x: Tensor) -> Tensor:
        """What the attention of this block gets where the block gets ``x``."""
        return apply_norm(self.norm1, x)

    def _attend(self, x: Tensor, valid_sizes: Tensor | None, packing: Packing | None) -> Tensor:
        attended = self.attn(self.attention_input(x), valid_sizes, packing)
        return x + self.drop_path(attended, packing)

    def _is_plain(self) -> bool:
        """Whether the halves are what :mod:`swin_backbone.ops.half_blocks` computes."""
        norms = type(self.norm1) is nn.LayerNorm and type(self.norm2) is nn.LayerNorm
        drops = self.training and self.mlp.drop.p > 0
        return norms and not drops and self.mlp.is_gelu

    def _attend_fused(
        self, x: Tensor, valid_sizes: Tensor | None, packing: Packing | None
    ) -> Tensor:
        window_size, shift_size, table = self.attn.fit(map_size(x, packing))
        return residual_attention(
            x,
            _norm_parameters(self.norm1),
            _linear_parameters(self.attn.qkv),
            table,
            _linear_parameters(self.attn.proj),
            self.attn.windows(window_size, shift_size),
            self.drop_path.sample(x, packing),
            self.attn.backend,
            valid_sizes,
            packing,
        )


def _norm_parameters(norm: nn.LayerNorm) -> NormParameters:
    return NormParameters(norm.weight, norm.bias, norm.eps)


def _linear_parameters(layer: nn.Linear) -> LinearParameters:
    return LinearParameters(layer.weight, layer.bias)
