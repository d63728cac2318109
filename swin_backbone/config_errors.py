"""Faults of what somebody wrote, told as theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .checkpoints import CheckpointError

#: What a wrong config makes of the code that reads it, or builds what it names.
_CONFIG_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


@contextmanager
def as_config_error(what: str) -> Iterator[None]:
    """Around what a config decides: its faults become a ``ValueError`` that names it.

    Args:
        what: as ``"config cfg.py cannot be read"``.

    Raises:
        ValueError: with ``what`` and the error's words; the error is its cause.
    """
    try:
        yield
    except CheckpointError:  # names its file itself
        raise
    except _CONFIG_ERRORS as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(f"{what}: {type(error).__name__}: {text}") from error
