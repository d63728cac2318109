"""Norms of token maps."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import clear_padding, layer_norm, norm_beside


def apply_norm(norm: nn.Module, x: Tensor, valid_sizes: Tensor | None = None) -> Tensor:
    """``norm(x)`` for tokens (..., C), by a fast kernel where ``norm`` is a layer norm.

    For maps (B, H, W, C) with ``valid_sizes`` (B, 2), it is zero outside these.
    """
    if is_plain(norm):
        return layer_norm(x, norm.weight, norm.bias, norm.eps, valid_sizes)
    return clear_padding(norm(x), valid_sizes)


def apply_norm_beside(
    norm: nn.Module, x: Tensor, valid_sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`apply_norm` and ``x`` itself, whose gradients are summed in one pass."""
    if is_plain(norm):
        return norm_beside(x, norm.weight, norm.bias, norm.eps, valid_sizes)
    return apply_norm(norm, x, valid_sizes), x


def is_plain(norm: nn.Module) -> bool:
    """Whether ``norm`` is a layer norm with weight and bias."""
    return type(norm) is nn.LayerNorm and norm.elementwise_affine and norm.bias is not None
