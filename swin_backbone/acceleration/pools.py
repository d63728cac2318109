"""Adaptive average pools of a prediction, on a GPU: torch's own leave most of it idle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import dispatch, triton
from .rewrite import Rewrite, Undo, own_method, replace_methods


def finds(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d)


def why_not(pool: nn.Module) -> str | None:
    return own_method(pool, "forward", nn.AdaptiveAvgPool2d)


def apply(pool: nn.Module) -> Undo:
    return replace_methods(pool, {"forward": forward})


def forward(pool: nn.Module, x: Tensor) -> Tensor:
    """``AdaptiveAvgPool2d.forward``."""
    size = pool.output_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    usual = x.is_cuda and x.dim() == 4 and not torch.is_grad_enabled() and None not in size
    if not usual or dispatch.why_not_maps(x) is not None:
        return type(pool).forward(pool, x)
    if 0 in (*x.shape, *size) or not triton.memory_formats.is_channels_last(x):
        return type(pool).forward(pool, x)
    return triton.pool_op.pool(x, size)


REWRITE = Rewrite("pools", "adaptive average pools of predictions", finds, why_not, apply)
