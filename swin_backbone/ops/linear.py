"""Products of a block with what stands before and behind them: what the fast ones mean."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .layer_parameters import LinearParameters, NormParameters


def norm_linear(
    x: Tensor, norm: NormParameters, layer: LinearParameters, gelu: bool = False
) -> Tensor:
    """``linear(norm(x))``, and GELU if asked for.

    Args:
        x: (..., inputs).
        norm: over the inputs.
        layer: inputs to outputs.
        gelu: whether to apply GELU.
    """
    out = F.linear(F.layer_norm(x, norm.weight.shape, *norm), *layer)
    return F.gelu(out) if gelu else out


def linear_add(
    x: Tensor, layer: LinearParameters, residual: Tensor, keep: Tensor | None = None
) -> Tensor:
    """``residual + keep * linear(x)``.

    Args:
        x: (B, H, W, inputs).
        layer: inputs to outputs.
        residual: (B, H, W, outputs).
        keep: (B,) factor of each image; ``None`` for 1.
    """
    return residual + scale_images(F.linear(x, *layer), keep)


def scale_images(x: Tensor, keep: Tensor | None) -> Tensor:
    """``x`` (B, ..., C) times ``keep`` (B,), in the dtype of ``x``."""
    return x if keep is None else x * factors_of_images(keep, x)


def factors_of_images(keep: Tensor, x: Tensor) -> Tensor:
    """``keep`` (B,) to be multiplied with ``x`` (B, ..., C): (B, ..., 1), in its dtype."""
    return keep.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
