"""A batch of data samples as tensors, and back: what can be put into memory that stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmengine.structures import BaseDataElement
from torch import Tensor

#: Of a data sample: its class, and for each field its name and either ``None``, for a tensor, or
#: the structure of the element that it holds.
Structure = tuple


def take_apart(samples: Sequence[BaseDataElement]) -> tuple[list[Tensor], tuple[Structure, ...]]:
    """The tensors in data samples, and where they belong.

    Args:
        samples: with elements of tensors, such as label maps. Metadata is left out.

    Raises:
        ValueError: if a field is neither a tensor nor an element.
    """
    tensors: list[Tensor] = []
    return tensors, tuple(_structure(sample, "data_samples", tensors) for sample in samples)


def _structure(element: BaseDataElement, place: str, tensors: list[Tensor]) -> Structure:
    fields = []
    for name, value in sorted(element.items()):
        if isinstance(value, Tensor):
            tensors.append(value)
            fields.append((name, None))
        elif isinstance(value, BaseDataElement):
            fields.append((name, _structure(value, f"{place}.{name}", tensors)))
        else:
            raise ValueError(f"{place}.{name} is a {type(value).__name__}, not a tensor")
    return type(element), tuple(fields)


def put_together(
    structures: Sequence[Structure], tensors: Sequence[Tensor]
) -> list[BaseDataElement]:
    """Data samples of the same structure with other tensors, and without metadata: what a loss
    would read there cannot be the next batch's."""
    parts = iter(tensors)
    return [_element(structure, parts) for structure in structures]


def _element(structure: Structure, parts: Iterator[Tensor]) -> BaseDataElement:
    kind, fields = structure
    element = kind()
    for name, inner in fields:
        value = next(parts) if inner is None else _element(inner, parts)
        element.set_data({name: value})
    return element
