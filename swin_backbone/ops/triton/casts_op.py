"""Weights that are cast together as an operator of torch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..torch_internals.tensor_views import copy_all, views_like
from .autograd_op import register


def _empty(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return weights[0].new_empty(sum(weight.numel() for weight in weights), dtype=dtype)


def _cast(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """All elements of ``weights``, of one device and dtype, one after the other in ``dtype``."""
    flat = _empty(weights, dtype)
    copy_all(views_like(flat, weights), weights)
    return flat


#: For compilers; arguments and result as of :func:`_cast`.
cast_together = register("cast_together", _cast)
cast_together.register_fake(_empty)
