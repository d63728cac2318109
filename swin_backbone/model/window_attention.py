"""Attention within shifted windows, with its parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import MAPS, TokenLayout, Windows, attend, crop_bias_table, fit_window
from ..ops.torch_internals.module_contents import children
from .plain_modules import is_idle, is_plain, own_tensor
from .qkv_projection import AttentionCall, crop, project_queries


class WindowAttention(nn.Module):
    """Window-based multi-head self-attention with relative position bias, regular (W-MSA) or
    shifted (SW-MSA): Swin Transformer, section 3.2.

    Args:
        embed_dims: channels C of a token.
        num_heads: number of heads; divides C.
        window_size: rows and columns of a window, in tokens.
        shift_size: rows and columns of the shift, in tokens.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: factor on q k^T; ``None`` for ``head_dim ** -0.5``.
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
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        backend: str = "auto",
        small_maps: str = "shift",
    ):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = shift_size
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5
        self.attn_drop_rate = attn_drop_rate
        self.backend = backend
        self.small_maps = small_maps
        table_rows = (2 * window_size[0] - 1) * (2 * window_size[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows, num_heads))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor, layout: TokenLayout = MAPS) -> Tensor:
        """(B, H, W, C) to (B, H, W, C), or tokens (T, C) of variable length to the same; tokens see
        those in the valid part of their map only."""
        qkv, bias_table, layout, options = self.attention_call(x, layout)
        attended = attend(qkv, bias_table, layout, **options)
        return self.proj_drop(self.proj(crop(attended, x)))

    def attention_call(self, x: Tensor, layout: TokenLayout = MAPS) -> AttentionCall:
        """What :func:`swin_backbone.ops.attend` gets where this module gets ``x``."""
        windows, bias_table = self.fit(layout.map_size(x))
        qkv, padding = project_queries(self.qkv, x, windows.window_size, None, layout)
        options = {
            "num_heads": windows.num_heads,
            "window_size": windows.window_size,
            "shift_size": windows.shift_size,
            "scale": windows.scale,
            "padding_qkv": padding,
            "dropout_p": windows.dropout_p,
            "backend": self.backend,
        }
        return AttentionCall(qkv, bias_table, layout, options)

    def fit(self, size: tuple[int, int] | None) -> tuple[Windows, Tensor]:
        """Geometry of the attention and bias table for a map of ``size`` tokens, as ``small_maps``
        says; ``None`` for maps of many sizes, whose windows depend on none."""
        window_size, shift_size = fit_window(
            size, self.window_size, self.shift_size, self.small_maps
        )
        table = self.relative_position_bias_table
        if window_size != self.window_size:
            table = crop_bias_table(table, self.window_size, window_size)
        dropout_p = self.attn_drop_rate if self.training else 0.0
        return Windows(self.num_heads, window_size, shift_size, self.scale, dropout_p), table

    def is_plain(self) -> bool:
        """Whether nothing follows the projection, and the bias table is a tensor and no more."""
        plain = is_plain(own_tensor(self, "relative_position_bias_table"))
        return plain and is_idle(children(self)["proj_drop"])

    def extra_repr(self) -> str:
        return (
            f"num_heads={self.num_heads}, window_size={self.window_size}, "
            f"shift_size={self.shift_size}, backend={self.backend!r}"
        )
