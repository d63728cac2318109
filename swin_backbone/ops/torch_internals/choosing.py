"""Whether an interface that torch does not document is there, and still does what it did."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

import torch

from ..versions import release

#: The first and the last version of torch that all of it is for. It was last run with 2.11 and
#: 2.14; with each, what is found is tried before it is used.
TESTED = ((2, 4), (2, 14))
#: Interfaces that a public way stands in for here, and why.
FALLBACKS: dict[str, str] = {}

T = TypeVar("T")


def find(name: str) -> object | None:
    """What a dotted name stands for, or ``None``."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = sys.modules.get(".".join(parts[:length])) or import_module(
                ".".join(parts[:length])
            )
            for part in parts[length:]:
                found = getattr(found, part)
        except (ImportError, AttributeError):
            continue
        return found
    return None


def is_tested() -> bool:
    """Whether this torch is one of :data:`TESTED`."""
    return TESTED[0] <= release(torch.__version__)[:2] <= TESTED[1]


def choose(name: str, check: Callable[[T], bool | None], fallback: T) -> T:
    """An interface of torch's, if it is there and right, or else what stands in for it.

    Args:
        name: its dotted name.
        check: tries it on a tiny case and says whether the answer is right; ``None`` if that cannot
            be tried with this torch, and then the version decides. It runs in a thread of its own,
            where no mode, transform, autocast or gradient mode of the caller's is on.
        fallback: a public way to the same results.
    """
    found = find(name)
    why = "missing" if found is None else _in_fresh_thread(lambda: _why_not(check, found))
    if why is None:
        return found
    FALLBACKS[name] = why
    return fallback


def _why_not(check: Callable[[T], bool | None], found: T) -> str | None:
    try:
        is_correct = check(found)
    except Exception as error:  # of whatever kind: it is not what it was
        return " ".join(f"{type(error).__name__}: {error}".split())
    if is_correct is None:
        return None if is_tested() else f"not tested with torch {torch.__version__}"
    return None if is_correct else "does not answer as it did"


def _in_fresh_thread(ask: Callable[[], T]) -> T:
    answers: list[T] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    thread.join()
    return answers[0]


def describe() -> str:
    """For reports: whether the package is for this torch, and what runs by public ways here."""
    first, last = (".".join(map(str, version)) for version in TESTED)
    known = "known" if is_tested() else "not known"
    ways = "; ".join(f"{name} ({why})" for name, why in sorted(FALLBACKS.items()))
    return f"{known} ({first} to {last}), by public ways: {ways or 'none'}"
