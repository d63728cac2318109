"""Norms of token maps."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import layer_norm


def apply_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)`` for tokens (..., C), by a fast kernel where ``norm`` is a layer norm."""
    if type(norm) is nn.LayerNorm and norm.elementwise_affine and norm.bias is not None:
        return layer_norm(x, norm.weight, norm.bias, norm.eps)
    return norm(x)
