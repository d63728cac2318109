"""Copies of weights in the dtype of products, made together.

Autocast casts each weight when it is used: a kernel for each, and the host's time to start it. A
model knows all of its weights beforehand.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_current = threading.local()


@contextmanager
def low_precision_copies(weights: Sequence[Tensor], dtype: torch.dtype) -> Iterator[None]:
    """Within, :func:`in_low_precision` finds copies of ``weights`` that were made at once.

    Args:
        weights: on any devices, of any dtypes.
        dtype: of the copies. There are none of weights that have it, nor of parameters that are
            more than tensors, such as the shards of a distributed one.
    """
    copies: dict[int, Tensor] = {}
    alike: dict[tuple, list[Tensor]] = {}
    for weight in weights:
        if type(weight) is nn.Parameter and weight.dtype != dtype:
            alike.setdefault((weight.device, weight.dtype), []).append(weight)
    for group in alike.values():
        with torch.no_grad():
            flat = group[0].new_empty(sum(w.numel() for w in group), dtype=dtype)
            views = torch._utils._unflatten_dense_tensors(flat, group)
            torch._foreach_copy_(views, group)
        copies.update({id(weight): view for weight, view in zip(group, views, strict=True)})
    previous = getattr(_current, "copies", {})
    _current.copies = copies
    try:
        yield
    finally:
        _current.copies = previous


def in_low_precision(weights: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """``weights`` in ``dtype``, without their history."""
    if torch.compiler.is_compiling():
        return [_cast(weight, dtype) for weight in weights]
    copies = getattr(_current, "copies", {})
    return [_find(copies, weight, dtype) for weight in weights]


def _find(copies: dict[int, Tensor], weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    copy = copies.get(id(weight))
    # A sharded or moved parameter may have had another shape or device when the copies were made.
    same = copy is not None and copy.shape == weight.shape and copy.device == weight.device
    if same and copy.dtype == dtype:
        return copy
    return _cast(weight, dtype)


def _cast(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if weight is None else weight.detach().to(dtype)
