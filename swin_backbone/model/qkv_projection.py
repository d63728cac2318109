"""Queries, keys and values of a map, and of the tokens that fill up its windows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import MAPS, TokenLayout, corner_pad
from ..ops.tracing import counts_flops
from .plain_modules import is_bare, is_itself


class AttentionCall(NamedTuple):
    """What an attention module hands to :func:`swin_backbone.ops.attend`.

    Attributes:
        qkv: (B, H, W, 3 * C), or of variable length (T, 3 * C).
        bias_table: ((2 M_h - 1) (2 M_w - 1), heads), learned or computed.
        layout: where the tokens lie.
        options: the rest, by name.
    """

    qkv: Tensor
    bias_table: Tensor
    layout: TokenLayout
    options: dict[str, Any]


def project_queries(
    layer: nn.Module,
    x: Tensor,
    window_size: tuple[int, int],
    bias: Tensor | None = None,
    layout: TokenLayout = MAPS,
) -> tuple[Tensor, Tensor | None]:
    """Queries, keys and values of tokens.

    A token that only fills up a window is zero before its projection. That of torch's linear layer
    is the bias. What anything else makes of a zero, only a call can tell: it then gets these tokens
    too, those of a batch where they stand in the original's code.

    Args:
        layer: C to 3 C: a linear layer, or whatever stands in its place.
        x: (B, H, W, C), or of variable length (T, C).
        window_size: rows and columns of a window, in tokens.
        bias: (3 C,) added to what ``layer`` gives; ``None`` for nothing.
        layout: where the tokens lie, and whether any sees those that fill up windows.

    Returns:
        (B, H, W, 3 C) or (T, 3 C), of a batch with the tokens that fill up windows if ``layer`` got
        them; and (3 C,) for those that are still missing, ``None`` if none is seen.
    """
    if is_bare(layer, nn.Linear):
        bias = _sum(layer.bias, bias)
        return F.linear(x, layer.weight, bias), bias
    if counts_flops() and is_itself(layer, nn.Linear):  # a counter's hooks change nothing
        return _add(layer(x), bias), _sum(layer.bias, bias)
    if layout.hides_padding:
        return _add(layer(x), bias), None
    if layout.packing is not None:
        qkv = _add(layer(torch.cat([x, x.new_zeros(1, x.shape[1])])), bias)
        return qkv[:-1], qkv[-1]
    x = corner_pad(x, window_size, window_size, dims=(1, 2))
    return _add(layer(x), bias), None


def crop(attended: Tensor, like: Tensor) -> Tensor:
    """The tokens of ``like`` (B, H, W, C), or (T, C), without those that fill up windows."""
    if like.dim() == 2 or attended.shape[1:3] == like.shape[1:3]:
        return attended
    return attended[:, : like.shape[1], : like.shape[2]]


def _sum(bias: Tensor | None, other: Tensor | None) -> Tensor | None:
    if bias is None or other is None:
        return other if bias is None else bias
    return bias + other


def _add(qkv: Tensor, bias: Tensor | None) -> Tensor:
    return qkv if bias is None else qkv + bias.to(qkv.dtype)
