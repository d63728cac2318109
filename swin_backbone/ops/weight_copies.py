"""Copies of weights in the compute dtype, made together.

Autocast casts each weight when it is used: a kernel for each, and the host's time to start it. A
model knows all of its weights beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from . import triton
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
        weights = [w for w in weights if type(w) is nn.Parameter and w.dtype != dtype]
        alike: dict[tuple, list[Tensor]] = {}
        for weight in weights:
            alike.setdefault((weight.device, weight.dtype), []).append(weight)
        #: Compiled: weights and their copies by shape, as no compiler tells a tensor's id; made
        #: when one is asked for, as a graph may do without them.
        self._pairs: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] | None = None
        self._copies: dict[int, Tensor] = {}
        self._groups = list(alike.values())
        #: They are compared by identity, which holds as long as they live.
        self._weights = weights
        if torch.compiler.is_compiling():
            return
        for group in self._groups:
            copies = _copies(group, dtype)
            self._copies |= {id(w): copy for w, copy in zip(group, copies, strict=True)}

    def find(self, weight: Tensor | None) -> Tensor | None:
        """The copy of ``weight``, or ``None`` if there is none of it as it is now: a sharded or
        moved parameter may have had another shape or device."""
        copy = self._find(weight)
        same = copy is not None and copy.shape == weight.shape and copy.device == weight.device
        return copy if same else None

    def _find(self, weight: Tensor | None) -> Tensor | None:
        if not torch.compiler.is_compiling():
            return self._copies.get(id(weight))
        if self._pairs is None:
            self._pairs = {}
            for group in self._groups:
                for known, copy in zip(group, copies_in_a_graph(group, self.dtype), strict=True):
                    self._pairs.setdefault(tuple(known.shape), []).append((known, copy))
        pairs = [] if weight is None else self._pairs.get(tuple(weight.shape), [])
        for known, copy in pairs:
            if known is weight:
                return copy
        return None


def _copies(weights: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """Copies of weights of one device and dtype, views of one tensor."""
    with torch.no_grad():
        flat = weights[0].new_empty(sum(w.numel() for w in weights), dtype=dtype)
        views = views_like(flat, weights)
        copy_all(views, weights)
    return views


def copies_in_a_graph(
    weights: Sequence[Tensor], dtype: torch.dtype, shapes: Sequence[Tensor] | None = None
) -> Sequence[Tensor]:
    """The same by an operator that compilers leave as it is: they would make it many kernels.

    ``shapes``: tensors of the shapes of the copies, one of which may be of several weights.
    """
    with torch.no_grad():
        flat = triton.casts_op.cast_together([w.detach() for w in weights], dtype)
        shapes = weights if shapes is None else shapes
        parts = flat.split([one.numel() for one in shapes])
        return [part.view(one.shape) for part, one in zip(parts, shapes, strict=True)]


def in_compute_dtype(
    weights: Sequence[Tensor | None], dtype: torch.dtype, copies: LowPrecisionCopies | None = None
) -> list[Tensor | None]:
    """``weights`` in ``dtype``, without their history: those of ``copies``, or cast here."""
    if copies is None or copies.dtype != dtype:
        return [cast_weight(weight, dtype) for weight in weights]
    found = [copies.find(weight) for weight in weights]
    return [cast_weight(w, dtype) if f is None else f for w, f in zip(weights, found, strict=True)]


def cast_weight(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """``weight`` in ``dtype``, without its history; in a graph by an operator that compilers leave
    as it is, as they would make a kernel of it."""
    if weight is not None and torch.compiler.is_compiling() and weight.dtype != dtype:
        return copies_in_a_graph([weight], dtype)[0]
    return None if weight is None else weight.detach().to(dtype)
