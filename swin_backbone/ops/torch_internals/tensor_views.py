"""Tensors cut out of one another, and many copied at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .choosing import choose

Tensors = Sequence[Tensor]


def _views_plainly(flat: Tensor, tensors: Tensors) -> Tensors:
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _copy_plainly(targets: Tensors, sources: Tensors) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _cuts(cut: Callable[[Tensor, Tensors], Tensors]) -> bool:
    flat = torch.arange(7.0, device="cpu")
    shapes = [flat.new_empty(2, 3), flat.new_empty(1)]
    found = cut(flat, shapes)
    same = [torch.equal(*pair) for pair in zip(found, _views_plainly(flat, shapes), strict=True)]
    return all(same) and all(view.data_ptr() - flat.data_ptr() in (0, 24) for view in found)


def _copies(copy: Callable[[Tensors, Tensors], object]) -> bool:
    sources = [torch.ones(2, device="cpu"), torch.full((1, 3), 2.0, device="cpu")]
    targets = [torch.zeros_like(source, dtype=torch.bfloat16) for source in sources]
    copy(targets, sources)
    return all(torch.equal(*pair) for pair in zip(map(Tensor.float, targets), sources, strict=True))


_views = choose("torch._utils._unflatten_dense_tensors", _cuts, _views_plainly)
_copy = choose("torch._foreach_copy_", _copies, _copy_plainly)


def views_like(flat: Tensor, tensors: Tensors) -> Tensors:
    """Consecutive pieces of a vector, in the shapes of tensors: views, made in a third of the time
    that ``split`` and ``view`` take.

    Args:
        flat: (n,), as many elements as all tensors have.
        tensors: contiguous or not; only their shapes matter.
    """
    return _views(flat, tensors)


def copy_all(targets: Tensors, sources: Tensors) -> None:
    """Copy each source into its target, which may have another dtype, in few launches."""
    _copy(targets, sources)


def _counts_changes(version: object) -> bool:
    tensor = torch.zeros(2, device="cpu")
    before = version.__get__(tensor)
    tensor.add_(1.0)
    return version.__get__(tensor) != before


_version = choose("torch.Tensor._version", _counts_changes, None)


def version_of(tensor: Tensor) -> int | None:
    """A number that changes when a tensor is written to, though not through its ``data``; ``None``
    where nobody counts, as for tensors of inference."""
    return None if _version is None or tensor.is_inference() else _version.__get__(tensor)
