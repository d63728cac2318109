"""Orders of the channels that patch merging joins."""

from __future__ import annotations

from torch import Tensor


def in_unfold_order(parameter: Tensor) -> Tensor:
    """(..., 4 C) from neighbour by neighbour, column by column, to the order of ``nn.Unfold``."""
    shape = parameter.shape
    return parameter.reshape(*shape[:-1], 2, 2, -1).transpose(-3, -1).reshape(shape)
