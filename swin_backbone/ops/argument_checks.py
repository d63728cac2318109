"""Kinds of arguments: what each takes, said once, and errors that name the argument.

A kind is called with an argument's name and value. It returns the value as plain Python, or raises
``TypeError`` for a value of another kind and ``ValueError`` for one out of range. numpy's scalars
and arrays count as the numbers and sequences that they hold; ``True`` is no number, 1 no flag, and
1.0 no integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

import torch

#: The largest number that kernels and tables hold.
INT32_MAX = 2**31 - 1

Kind = Callable[[str, Any], Any]


def is_integer(value: object) -> bool:
    """Whether ``value`` is a whole number of Python, numpy, or a trace: no bool, no 1.0."""
    if type(value) is int:
        return True
    return isinstance(value, Integral | torch.SymInt) and not isinstance(value, bool)


def show(value: object) -> str:
    """``repr(value)`` on one line that an error can hold, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # repr of a stranger's object, or of an integer of 5,000 digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def unpacked(value: object) -> object:
    """What numpy's arrays and scalars (of no axes) hold; anything else as it is."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def is_sequence(value: object) -> bool:
    """Whether ``value`` is a list, a tuple or the like, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def two_integers(name: str, value: Any, at_least: int) -> None:
    """Raise unless ``value`` is two integers; for operations, which are called often."""
    if not (is_sequence(value) and all(map(is_integer, value))):
        raise TypeError(f"{name} must be two integers >= {at_least}, got {show(value)}")
    if len(value) != 2 or value[0] < at_least or value[1] < at_least:
        raise ValueError(f"{name} must be two integers >= {at_least}, got {show(value)}")


def check_tensor(name: str, value: Any, optional: bool = False) -> None:
    """Raise unless ``value`` is a tensor, or ``None`` where that is taken."""
    if not (isinstance(value, torch.Tensor) or (optional and value is None)):
        raise TypeError(f"{name} must be a tensor{' or None' * optional}, got {show(value)}")


@dataclass(frozen=True)
class Integer:
    """A whole number."""

    at_least: int
    at_most: int = INT32_MAX

    def __call__(self, name: str, value: Any) -> int:
        if not is_integer(value):
            raise TypeError(f"{name} must be an integer, got {show(value)}")
        if not self.at_least <= value <= self.at_most:
            words = f">= {self.at_least}"
            if value > self.at_least:
                words = "below 2**31" if self.at_most == INT32_MAX else f"<= {self.at_most}"
            raise ValueError(f"{name} must be {words}, got {show(value)}")
        return value if isinstance(value, torch.SymInt) else int(value)


@dataclass(frozen=True)
class Number:
    """A finite real number that ``accepts`` takes; ``words`` say which those are."""

    words: str
    accepts: Callable[[float], bool]

    def __call__(self, name: str, value: Any) -> float:
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{name} must {self.words}, got {show(value)}")
        try:
            number = float(value)
        except OverflowError:  # an integer beyond floats
            number = math.inf
        if not (
            -math.inf < number < math.inf and self.accepts(number)
        ):  # a trace knows no isfinite
            raise ValueError(f"{name} must {self.words}, got {show(value)}")
        return number


RATE = Number("lie in [0, 1)", lambda x: 0.0 <= x < 1.0)
POSITIVE = Number("be a finite number > 0", lambda x: x > 0.0)
FINITE = Number("be a finite number", lambda x: True)


@dataclass(frozen=True)
class Flag:
    """``True`` or ``False``, and nothing that merely counts as one of them."""

    words = "True or False"

    def __call__(self, name: str, value: Any) -> bool:
        value = unpacked(value)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be {self.words}, got {show(value)}")
        return value


@dataclass(frozen=True)
class OneOf:
    """One of a few names."""

    choices: tuple[str, ...]

    @property
    def words(self) -> str:
        return f"one of {', '.join(map(repr, self.choices))}"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be {self.words}, got {show(value)}")
        if value not in self.choices:
            raise ValueError(f"{name} must be {self.words}, got {show(value)}")
        return str(value)


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise as :class:`OneOf` does, by what compilers can trace: torch 2.11 cannot make one."""
    if not isinstance(value, str) or value not in choices:
        OneOf(tuple(choices))(name, value)


@dataclass(frozen=True)
class Pair:
    """Rows and columns, from one integer for both or from two."""

    at_least: int = 1

    def __call__(self, name: str, value: Any) -> tuple[int, int]:
        given = unpacked(value)
        values = (given,) if is_integer(given) else given
        if not is_sequence(values) or not all(map(is_integer, values)):
            raise TypeError(f"{name} must be an integer or two, got {show(value)}")
        if len(values) not in (1, 2) or not all(self.at_least <= v <= INT32_MAX for v in values):
            raise ValueError(
                f"{name} must be one integer >= {self.at_least} or two (and below 2**31), "
                f"got {show(value)}"
            )
        return int(values[0]), int(values[-1])


@dataclass(frozen=True)
class Each:
    """A sequence, of the form that is said, whose entries are of one kind; ``words`` say which."""

    kind: Kind
    words: str
    form: str = "be a list or tuple"

    def __call__(self, name: str, value: Any) -> tuple:
        values = unpacked(value)
        if not is_sequence(values):
            raise TypeError(f"{name} must {self.form}, got {show(value)}")
        try:
            return tuple(self.kind(name, entry) for entry in values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} must be {self.words}, got {show(value)}") from error


@dataclass(frozen=True)
class Either:
    """One entry for all, or a sequence of entries."""

    one: Kind
    several: Kind

    def __call__(self, name: str, value: Any) -> Any:
        several = is_sequence(unpacked(value))
        return (self.several if several else self.one)(name, value)


@dataclass(frozen=True)
class Dict:
    """A dict, such as mmengine's; ``words`` say of what."""

    words: str = "a dict"

    def __call__(self, name: str, value: Any) -> Mapping:
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} must be {self.words}, got {show(value)}")
        return value


@dataclass(frozen=True)
class Text:
    """Text that is not empty, or a path; ``words`` say what it stands for."""

    words: str

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str | PathLike):
            raise TypeError(f"{name} must be {self.words}, got {show(value)}")
        if not str(value):
            raise ValueError(f"{name} must be {self.words}, got {show(value)}")
        return fspath(value)


@dataclass(frozen=True)
class Optional:
    """``None``, or a value of another kind."""

    kind: Kind

    def __call__(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        try:
            return self.kind(name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (None is taken, too)") from None
