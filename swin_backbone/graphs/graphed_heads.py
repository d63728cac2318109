"""A head that is called with the maps of a graphed backbone and neck, in the same graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..ops.torch_internals.tensor_views import version_of
from .replaced_methods import ReplacedMethod
from .training_state import modes_of_torch

#: Given a head's maps, further arguments.
StandIns = Callable[[Sequence[Tensor]], tuple]


class GraphedHead:
    """Computes a head's results with the maps that it will be called with, and keeps them until
    then.

    Args:
        head: its ``forward`` takes all maps, as a sequence.
        stand_ins: given the maps, what stands for further arguments of ``forward``, on which its
            results do not depend; ``None`` if it takes none.
    """

    def __init__(self, head: nn.Module, stand_ins: StandIns | None = None):
        self._kept: _Kept | None = None
        self._stand_ins = stand_ins
        self._replaced = ReplacedMethod(head, "forward", self._forward)

    def joined(self, function: Callable) -> Callable:
        """A function that returns the maps of ``function``, and the head's results of them."""

        def compute(*args, **kwargs):
            maps = function(*args, **kwargs)
            others = () if self._stand_ins is None else self._stand_ins(maps)
            return maps, self._replaced.function(maps, *others)

        return compute

    def keep(self, maps: Sequence[Tensor], results: object) -> None:
        """Keep the results of these maps for the head's next call."""
        self._kept = _Kept(maps, results)

    def forget(self) -> None:
        self._kept = None

    def revert(self) -> None:
        """Give the head its own ``forward`` again."""
        self.forget()
        self._replaced.revert()

    def _forward(self, *args, **kwargs) -> object:
        """The head's results: those that were kept of the same maps, once, or computed."""
        kept, self._kept = self._kept, None
        alone = not kwargs and (len(args) == 1 or self._stand_ins is not None)
        if kept is not None and alone and kept.are_of(args[0]):
            return kept.results
        return self._replaced.function(*args, **kwargs)


class _Kept:
    """Results, and what they were computed from."""

    def __init__(self, maps: Sequence[Tensor], results: object):
        self.results = results
        self._maps = list(maps)
        self._circumstances = self._read()

    def _read(self) -> tuple:
        """Whether maps were written to, and what else decides what a head gives."""
        modes = modes_of_torch(self._maps[0].device.type)
        return torch.is_grad_enabled(), *modes, *map(version_of, self._maps)

    def are_of(self, maps: object) -> bool:
        """Whether a call with these maps, now, would give the same results."""
        if not isinstance(maps, (tuple, list)) or len(maps) != len(self._maps):
            return False
        same = all(one is other for one, other in zip(maps, self._maps, strict=True))
        return same and self._read() == self._circumstances
