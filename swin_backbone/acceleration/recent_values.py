"""What was made last for each owner, by key: bounded, and for several threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from weakref import WeakKeyDictionary


class RecentValues:
    """Values of an owner, by key. They go when it goes, and a copy of it has none.

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
            return values[key]

    def keep(self, owner: object, key: Hashable, value: object) -> None:
        """Keep a value, and no longer the one that was asked for longest ago, if there are too
        many."""
        with self._lock:
            values = self._of.setdefault(owner, OrderedDict())
            values[key] = value
            values.move_to_end(key)
            while len(values) > self._most:
                values.popitem(last=False)
