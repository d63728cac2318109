"""Scaled cosine attention within shifted windows, with its parameters (Swin Transformer V2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops import MAPS, CosineScores, TokenLayout, Windows, attend, fit_window, logit_factors
from ..ops.torch_internals.module_contents import children
from .continuous_position_bias import ContinuousPositionBias
from .plain_modules import is_idle, is_plain, own_tensor
from .qkv_projection import AttentionCall, crop, project_queries

INITIAL_LOGIT_SCALE = 10.0


class WindowAttentionV2(nn.Module):
    """Window-based multi-head self-attention of Swin Transformer V2
    (https://arxiv.org/abs/2111.09883), sections 3.2 and 3.3: the cosine of queries and keys times
    a learned factor per head, and a bias that a small network computes from log-spaced relative
    coordinates. Queries and values have a bias, keys have none.

    Args:
        embed_dims: channels C of a token.
        num_heads: number of heads; divides C.
        window_size: rows and columns of a window, in tokens.
        shift_size: rows and columns of the shift, in tokens.
        qkv_bias: whether queries and values have a bias.
        pretrained_window_size: rows and columns of the window with which the weights were
            trained; the coordinates are scaled to it. ``(0, 0)``: the window itself.
        attn_drop_rate: probability of dropping an attention weight.
        proj_drop_rate: probability of dropping an output element.
        backend: how to compute the attention, see
            :func:`swin_backbone.ops.shifted_window_attention`.
        small_maps: windows on maps no larger than they are, see
            :func:`swin_backbone.ops.fit_window`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: tuple[int, int],
        shift_size: tuple[int, int] = (0, 0),
        qkv_bias: bool = True,
        pretrained_window_size: tuple[int, int] = (0, 0),
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        backend: str = "auto",
        small_maps: str = "shift",
    ):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = shift_size
        self.pretrained_window_size = pretrained_window_size
        self.attn_drop_rate = attn_drop_rate
        self.backend = backend
        self.small_maps = small_maps
        self.logit_scale = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.q_bias = nn.Parameter(torch.empty(embed_dims)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.empty(embed_dims)) if qkv_bias else None
        self.cpb_mlp = ContinuousPositionBias(num_heads)
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=False)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set what is no layer's: the factors of the logits, and the biases."""
        nn.init.constant_(self.logit_scale, math.log(INITIAL_LOGIT_SCALE))
        if self.q_bias is not None:
            nn.init.zeros_(self.q_bias)
            nn.init.zeros_(self.v_bias)

    def qkv_bias(self) -> Tensor | None:
        """(3 * C,) bias of queries, keys (zero) and values, or ``None``."""
        if self.q_bias is None:
            return None
        return torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])

    def forward(self, x: Tensor, layout: TokenLayout = MAPS) -> Tensor:
        """(B, H, W, C) to (B, H, W, C), or tokens (T, C) of variable length to the same; tokens see
        those in the valid part of their map only."""
        qkv, bias_table, layout, options = self.attention_call(x, layout)
        attended = attend(qkv, bias_table, layout, **options)
        return self.proj_drop(self.proj(crop(attended, x)))

    def attention_call(self, x: Tensor, layout: TokenLayout = MAPS) -> AttentionCall:
        """What :func:`swin_backbone.ops.attend` gets where this module gets ``x``."""
        windows = self.fit(layout.map_size(x))
        window_size, shift_size = windows.window_size, windows.shift_size
        qkv, padding = project_queries(self.qkv, x, window_size, self.qkv_bias(), layout)
        options = {
            "num_heads": self.num_heads,
            "window_size": window_size,
            "shift_size": shift_size,
            "logit_scale": logit_factors(self.logit_scale),
            "padding_qkv": padding,
            "dropout_p": windows.dropout_p,
            "backend": self.backend,
        }
        bias_table = self.cpb_mlp(window_size, self.pretrained_window_size)
        return AttentionCall(qkv, bias_table, layout, options)

    def fit(self, size: tuple[int, int] | None) -> Windows:
        """Geometry of the attention for a map of ``size`` tokens, as ``small_maps`` says; ``None``
        for maps of many sizes, whose windows depend on none."""
        window_size, shift_size = fit_window(
            size, self.window_size, self.shift_size, self.small_maps
        )
        dropout_p = self.attn_drop_rate if self.training else 0.0
        return Windows(self.num_heads, window_size, shift_size, 1.0, dropout_p)

    def is_plain(self) -> bool:
        """Whether nothing follows the projection, biases are tensors and no more, and so is what
        scores are computed with."""
        own = [own_tensor(self, name) for name in ("logit_scale", "q_bias", "v_bias")]
        idle = is_idle(children(self)["proj_drop"])
        return idle and all(map(is_plain, own)) and self.scores() is not None

    def scores(self) -> CosineScores | None:
        """What scores are computed with; ``None`` if the layers of the position bias are more."""
        layers = children(self)["cpb_mlp"]
        found = layers.plain_layers() if type(layers) is ContinuousPositionBias else None
        if found is None:
            return None
        return CosineScores(own_tensor(self, "logit_scale"), *found, self.pretrained_window_size)

    def biases(self) -> tuple[Tensor, Tensor] | None:
        """Of queries and values, (C,) each."""
        query, value = own_tensor(self, "q_bias"), own_tensor(self, "v_bias")
        return None if query is None or value is None else (query, value)

    def extra_repr(self) -> str:
        return (
            f"num_heads={self.num_heads}, window_size={self.window_size}, "
            f"shift_size={self.shift_size}, "
            f"pretrained_window_size={self.pretrained_window_size}, backend={self.backend!r}"
        )
