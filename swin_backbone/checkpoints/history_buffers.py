"""Histories of values, which checkpoints of mmengine's runs hold, read without mmengine.

mmengine's message hub keeps losses as numpy arrays in a ``HistoryBuffer``. Here a history is made
again from the arrays of the file; where mmengine is in use, as an object of its own class.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from .placeholders import register_stand_in
from .safe_pickle import Pending, StandIn, UnsafePickleError, shown

NAME = "mmengine.logging.history_buffer.HistoryBuffer"
STATISTICS = ("mean", "max", "min", "current")


class History(NamedTuple):
    """A history of values, without mmengine.

    Attributes:
        values: one row of numbers.
        counts: how many items each stands for.
        max_length: how many are kept.
    """

    values: np.ndarray
    counts: np.ndarray
    max_length: int


def allow_histories(
    make: Callable = History, name: str = NAME, statistics: Collection[str] = STATISTICS
) -> None:
    """Let checkpoints hold histories.

    Args:
        make: from values, counts and the longest length to a history.
        name: of mmengine's class, as pickles have it.
        statistics: its methods that a history may name, which are those of the class: a file is
            not asked for them.
    """

    def history(*args) -> Pending:
        if args:
            raise UnsafePickleError("a history of values made of arguments")
        return Pending(lambda state: make(*_checked(state)))

    def statistic(owner, method) -> StandIn:
        """The one use of ``getattr`` that a history has: naming its own statistics methods."""
        known = isinstance(owner, StandIn) and owner.name == name
        if not known or not isinstance(method, str) or method not in statistics:
            raise UnsafePickleError(f"it looks up {shown(method)} on {shown(owner)}")
        return StandIn(f"{name}.{method}")

    register_stand_in(name, history)
    register_stand_in("builtins.getattr", statistic)
    for method in statistics:  # as later protocols spell it
        register_stand_in(f"{name}.{method}", None)


def _checked(state: object) -> tuple[np.ndarray, np.ndarray, int]:
    if not isinstance(state, dict):
        raise UnsafePickleError("a history of values without them")
    values, counts = (state.get(name) for name in ("_log_history", "_count_history"))
    for array in (values, counts):
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "biuf":
            raise UnsafePickleError("a history of other than one row of numbers")
    length = state.get("max_length", 1_000_000)
    if type(length) is not int or length < 1 or not len(values) == len(counts) <= length:
        raise UnsafePickleError(f"a history of {len(values)} values, {len(counts)} counts")
    return values, counts, length
