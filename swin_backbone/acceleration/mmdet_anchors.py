"""Anchors that are laid out once for each size of maps.

mmdet lays them out in each step for the losses and once more for the proposals, from numbers on the
host: some 75 operators a time for five levels. Here those of the last sizes are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.torch_internals.tensor_views import version_of
from .mmdet_parts import rewrite_of_parts
from .recent_values import RecentValues, may_keep

#: Sizes whose anchors are kept, those that were asked for last: 4 MiB each at 800x1344.
_kept = RecentValues(8)


def grid_priors(
    generator,
    featmap_sizes: Sequence[tuple[int, int]],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cuda",
) -> list[Tensor]:
    """``AnchorGenerator.grid_priors``: anchors (N, 4) of each level, which nobody may change."""
    sizes, made_of = tuple(map(tuple, featmap_sizes)), list(generator.base_anchors)
    if not (may_keep(made_of) and _are_numbers(sizes)):
        return type(generator).grid_priors(generator, featmap_sizes, dtype=dtype, device=device)
    key = sizes, dtype, torch.device(device)
    found = _kept.get(generator, key)
    if found is None or not found.is_right(made_of, generator.strides):
        anchors = type(generator).grid_priors(generator, featmap_sizes, dtype=dtype, device=device)
        if not all(type(one) is Tensor for one in anchors):
            return anchors
        found = _Anchors(anchors, made_of, generator.strides)
        _kept.keep(generator, key, found)
    return list(found.levels)


class _Anchors:
    """Anchors of all levels, and what they were made of."""

    def __init__(self, levels: Sequence[Tensor], made_of: Sequence[Tensor], strides: Sequence):
        self.levels, self._made_of, self._strides = levels, made_of, list(strides)
        self._versions = self._read()

    def _read(self) -> list[int | None]:
        return [version_of(one) for one in (*self.levels, *self._made_of)]

    def is_right(self, made_of: Sequence[Tensor], strides: Sequence) -> bool:
        """Whether nobody has changed them, and they would be made of the same tensors again."""
        versions = self._read()
        if versions != self._versions or None in versions or list(strides) != self._strides:
            return False
        return [*map(id, made_of)] == [*map(id, self._made_of)]


def _are_numbers(sizes: tuple) -> bool:
    return all(type(length) is int for size in sizes for length in size)


REWRITE = rewrite_of_parts(
    "anchors",
    "anchors laid out once for each size",
    ("prior_generator",),
    ("mmdet.models.task_modules.prior_generators.anchor_generator", "AnchorGenerator"),
    {"grid_priors": grid_priors},
)
