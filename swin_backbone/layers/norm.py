"""Norms of token maps."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import clear_padding, layer_norm


def apply_norm(norm: nn.Module, x: Tensor, valid_sizes: Tensor | None = None) -> Tensor:
    """``norm(x)`` for tokens (..., C), by a fast kernel where ``norm`` is a layer norm.

    For maps (B, H, W, C) with ``valid_sizes`` (B, 2), it is zero outside these.
    """
    if type(norm) is nn.LayerNorm and norm.elementwise_affine and norm.bias is not None:
        return layer_norm(x, norm.weight, norm.bias, norm.eps, valid_sizes)
    return clear_padding(norm(x), valid_sizes)
