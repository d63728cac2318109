"""Copies of weights in the compute dtype, made together.

Autocast casts each weight when it is used: a kernel for each, and the host's time to start it. A
model knows all of its weights beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .torch_internals.tensor_views import copy_all, views_like


class LowPrecisionCopies:
    """Copies of a model's weights, made at once, for the layers that are given them.

    Args:
        weights: on any devices, of any dtypes.
        dtype: of the copies. There are none of weights that have it, nor of parameters that are
            more than tensors, such as the shards of a distributed one.
    """

    def __init__(self, weights: Iterable[Tensor], dtype: torch.dtype):
        self.dtype = dtype
        self._copies: dict[int, Tensor] = {}
        #: They are compared by identity, which holds as long as they live.
        self._weights = [w for w in weights if type(w) is nn.Parameter and w.dtype != dtype]
        alike: dict[tuple, list[Tensor]] = {}
        for weight in self._weights:
            alike.setdefault((weight.device, weight.dtype), []).append(weight)
        for group in alike.values():
            with torch.no_grad():
                flat = group[0].new_empty(sum(w.numel() for w in group), dtype=dtype)
                views = views_like(flat, group)
                copy_all(views, group)
            self._copies |= {id(w): view for w, view in zip(group, views, strict=True)}

    def find(self, weight: Tensor | None) -> Tensor | None:
        """The copy of ``weight``, or ``None`` if there is none of it as it is now: a sharded or
        moved parameter may have had another shape or device."""
        copy = self._copies.get(id(weight))
        same = copy is not None and copy.shape == weight.shape and copy.device == weight.device
        return copy if same else None


def in_compute_dtype(
    weights: Sequence[Tensor | None], dtype: torch.dtype, copies: LowPrecisionCopies | None = None
) -> list[Tensor | None]:
    """``weights`` in ``dtype``, without their history: those of ``copies``, or cast here."""
    if copies is None or copies.dtype != dtype:
        return [cast_weight(weight, dtype) for weight in weights]
    found = [copies.find(weight) for weight in weights]
    return [cast_weight(w, dtype) if f is None else f for w, f in zip(weights, found, strict=True)]


def cast_weight(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if weight is None else weight.detach().to(dtype)
