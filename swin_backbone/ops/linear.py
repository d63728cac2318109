"""Linear layers with norm, activation and residual: what the fused ones compute."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .layer_parameters import LinearParameters, NormParameters, plain_layer_norm


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
    out = F.linear(plain_layer_norm(x, *norm), *layer)
    return F.gelu(out) if gelu else out


def linear_add(
    x: Tensor, layer: LinearParameters, residual: Tensor, path_scale: Tensor | None = None
) -> Tensor:
    """``residual + path_scale * linear(x)``.

    Args:
        x: (B, H, W, inputs).
        layer: inputs to outputs.
        residual: (B, H, W, outputs).
        path_scale: (B,) factor of each image; ``None`` for 1.
    """
    return residual + scale_images(F.linear(x, *layer), path_scale)


def scale_images(x: Tensor, path_scale: Tensor | None) -> Tensor:
    """``x`` (B, ..., C) times ``path_scale`` (B,), in the dtype of ``x``."""
    return x if path_scale is None else x * broadcast_scale(path_scale, x)


def broadcast_scale(path_scale: Tensor, x: Tensor) -> Tensor:
    """``path_scale`` (B,) to be multiplied with ``x`` (B, ..., C): (B, ..., 1), in its dtype."""
    return path_scale.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
