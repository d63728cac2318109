"""What was made last for each owner, by key: bounded, and for several threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..ops.kept_tables import are_asked_for, is_keeping
from ..ops.tracing import why_plain_operators


class RecentValues:
    """Values of an owner, by key. They go when it goes, and a copy of it has none; a graph that is
    recorded meanwhile keeps those that it reads.

    Args:
        most: of an owner; those that were asked for last stay.
    """

    def __init__(self, most: int):
        self._most = most
        self._of: WeakKeyDictionary = WeakKeyDictionary()
        self._lock = Lock()  # an ordered dictionary that two threads change at once loses keys

    def get(self, owner: object, key: Hashable):
        """The value that was kept, or ``None``."""
        with self._lock:
            values = self._of.get(owner, {})
            if key not in values:
                return None
            values.move_to_end(key)
            found = values[key]
        are_asked_for(found)
        return found

    def keep(self, owner: object, key: Hashable, value: object) -> None:
        """Keep a value, and no longer the one that was asked for longest ago, if there are too
        many."""
        with self._lock:
            values = self._of.setdefault(owner, OrderedDict())
            values[key] = value
            values.move_to_end(key)
            while len(values) > self._most:
                values.popitem(last=False)
        are_asked_for(value)


def may_keep(made_of: Iterable[Tensor]) -> bool:
    """Whether what is made of these tensors may serve later calls: nobody is to see or to record
    how it is made, and later calls may need it for their gradients."""
    if torch.compiler.is_compiling() or is_keeping() or torch.is_inference_mode_enabled():
        return False
    return all(why_plain_operators(one) is None for one in made_of)
