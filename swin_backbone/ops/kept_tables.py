"""Small tables on devices that are made once and remembered, and who needs them meanwhile.

A graph reads its tables by address for as long as it is replayed, whatever a bounded memory of
tables has forgotten by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import TypeVar

_keepers: list[list] = []
Make = TypeVar("Make", bound=Callable)


def remembered_tables(make: Make) -> Make:
    """Decorator of a function that makes tables: the last 256 are remembered, and those asked for
    within :func:`keeping` are kept there as well."""
    cached = lru_cache(maxsize=256)(make)

    @wraps(make)
    def find(*args, **kwargs):
        tables = cached(*args, **kwargs)
        are_asked_for(tables)
        return tables

    find.cache_clear, find.cache_info = cached.cache_clear, cached.cache_info
    return find


def are_asked_for(tables: object) -> None:
    """Have tables kept that another memory than this module's has found."""
    for keeper in _keepers:
        keeper.append(tables)


@contextmanager
def keeping(tables: list) -> Iterator[None]:
    """Put all tables that any thread asks for meanwhile into a list."""
    _keepers.append(tables)
    try:
        yield
    finally:
        _keepers[:] = [keeper for keeper in _keepers if keeper is not tables]


def is_keeping() -> bool:
    """Whether any thread is within :func:`keeping`, as while something is recorded."""
    return bool(_keepers)
