"""What to install where an optional package is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def from_extra(extra: str) -> Iterator[None]:
    """Around imports of packages of one extra: say its name where one is missing.

        with from_extra("export"):
            import onnxruntime

    Args:
        extra: one of the optional dependencies in ``pyproject.toml``.

    Raises:
        ModuleNotFoundError: as the import does, with the command that installs the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.msg}: pip install 'swin-backbone[{extra}]' (from a checkout: "
            f"pip install -e '.[{extra}]')",
            name=error.name,
        ) from error
