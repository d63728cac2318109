"""Norms of token maps."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import clear_padding, layer_norm, norm_beside
from .plain_modules import norm_parameters


def apply_norm(norm: nn.Module, x: Tensor, valid_sizes: Tensor | None = None) -> Tensor:
    """``norm(x)`` for tokens (..., C), by a fast kernel where ``norm`` is a layer norm.

    For maps (B, H, W, C) with ``valid_sizes`` (B, 2), it is zero outside these.
    """
    parameters = norm_parameters(norm)
    if parameters is not None:
        return layer_norm(x, *parameters, valid_sizes)
    return clear_padding(norm(x), valid_sizes)


def apply_norm_beside(
    norm: nn.Module, x: Tensor, valid_sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`apply_norm` and ``x`` itself, whose gradients are summed in one pass."""
    parameters = norm_parameters(norm)
    if parameters is not None:
        return norm_beside(x, *parameters, valid_sizes)
    return apply_norm(norm, x, valid_sizes), x
