"""Norms of token maps."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import layer_norm, norm_beside


def apply_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)`` for a map (B, H, W, C), by a fast kernel where ``norm`` is a layer norm."""
    if is_plain(norm):
        return layer_norm(x, norm.weight, norm.bias, norm.eps)
    return norm(x)


def apply_norm_beside(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """``norm(x)`` and ``x`` for a map (B, H, W, C), whose gradients are summed in one pass."""
    if is_plain(norm):
        return norm_beside(x, norm.weight, norm.bias, norm.eps)
    return norm(x), x


def is_plain(norm: nn.Module) -> bool:
    """Whether ``norm`` is a layer norm with weight and bias."""
    return type(norm) is nn.LayerNorm and norm.elementwise_affine and norm.bias is not None
