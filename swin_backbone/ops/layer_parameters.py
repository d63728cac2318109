"""Parameters of layers as the operations take them, and their compute dtype."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class NormParameters(NamedTuple):
    """A layer norm: weight (C,), bias (C,), and what is added to the variance."""

    weight: Tensor
    bias: Tensor
    eps: float


class LinearParameters(NamedTuple):
    """A linear layer: weight (outputs, inputs), bias (outputs,) or ``None``."""

    weight: Tensor
    bias: Tensor | None


def compute_dtype(x: Tensor) -> torch.dtype:
    """In which dtype torch multiplies ``x`` with a matrix: autocast's, if it is on."""
    kind = "cuda" if x.is_cuda else x.device.type  # a string of a device's is made again each time
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def plain_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``F.layer_norm`` over the last axis, also with parameters of a narrower dtype than ``x``, as
    mixed precision by module makes them, and which a CPU does not take."""
    wide = torch.promote_types(weight.dtype, x.dtype)
    return F.layer_norm(x, weight.shape, weight.to(wide), bias.to(wide), eps)
