"""Tensors in what a function is given and returns, and all else of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: What is the same whenever it is equal, and is not changed in place.
PLAIN = (type(None), bool, int, float, complex, str, bytes)


@dataclass(frozen=True)
class Structure:
    """A nest of tuples, lists and mappings whose tensors were taken out.

    Attributes:
        kind: class of this one.
        names: of a mapping's values.
        parts: what it holds; ``None`` stands for a tensor.
        like: a plain value, or an empty mapping of this class, which is no part of what compares.
    """

    kind: type
    names: tuple = ()
    parts: tuple[Structure | None, ...] = ()
    like: object = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared())

    def _compared(self) -> tuple:
        # 1, 1.0 and True are equal, and decide on different things; their classes tell.
        return self.kind, self.names, self.parts, self.like if self.kind in PLAIN else None


def take_apart(value: object) -> tuple[list[Tensor], Structure | None]:
    """Tensors of a nest in order, and what is left.

    Raises:
        ValueError: if there is something in it that is no tensor, tuple, list, mapping, text or
            number: nobody knows what in it matters, and when it changes.
    """
    tensors: list[Tensor] = []
    return tensors, _structure(value, tensors)


def _structure(value: object, tensors: list[Tensor]) -> Structure | None:
    kind = type(value)
    if isinstance(value, Tensor):
        tensors.append(value)
        return None
    if kind in PLAIN:
        return Structure(kind, like=value)
    if isinstance(value, tuple | list):
        return Structure(kind, parts=tuple(_structure(one, tensors) for one in value))
    if isinstance(value, Mapping):
        parts = tuple(_structure(one, tensors) for one in value.values())
        return Structure(kind, tuple(value), parts, _emptied(value))
    raise ValueError(f"there is a {kind.__name__}, which is neither a tensor nor a plain value")


def _emptied(value: Mapping) -> Mapping:
    """A mapping of the same class and keys whose values are to be set; classes of mappings that are
    made of their fields, as outputs of transformers are, keep these in attributes besides."""
    if type(value) is dict:
        return {}
    emptied = copy.copy(value)
    for name in value:
        emptied[name] = None
    return emptied


def put_together(structure: Structure | None, tensors: Sequence[Tensor]) -> object:
    """The nest of a :class:`Structure`, with these tensors in order."""
    return _put(structure, iter(tensors))


def _put(structure: Structure | None, tensors: Iterator[Tensor]) -> object:
    if structure is None:
        return next(tensors)
    if structure.kind in PLAIN:
        return structure.like
    parts = [_put(part, tensors) for part in structure.parts]
    if issubclass(structure.kind, Mapping):
        made = copy.copy(structure.like)
        for name, part in zip(structure.names, parts, strict=True):
            made[name] = part
        return made
    if structure.kind in (tuple, list, torch.Size) or issubclass(structure.kind, list):
        return structure.kind(parts)
    return structure.kind(*parts)  # a named tuple
