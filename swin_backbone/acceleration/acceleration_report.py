"""What became of a model: a table that can be printed, and the way back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .rewrite import Undo


@dataclass(frozen=True)
class Row:
    """One module that a rewrite is about.

    Attributes:
        rewrite: name of the rewrite.
        modules: names of the modules in the model; ``''`` is the model itself.
        kind: name of their class.
        what: what took the module's place, or ``''`` where nothing did.
        reason: why nothing did, or ``''``.
    """

    rewrite: str
    modules: tuple[str, ...]
    kind: str
    what: str = ""
    reason: str = ""

    def cells(self) -> tuple[str, str, str]:
        """Rewrite, modules, and what became of them."""
        first = self.modules[0] or "(model)"
        rest = f" and {len(self.modules) - 1} more" if len(self.modules) > 1 else ""
        became = self.what or f"left as it is: {self.reason}"
        return self.rewrite, f"{first}{rest} ({self.kind})", became


class Report:
    """What :func:`swin_backbone.accelerate` did to a model, and why not more.

    Args:
        rows: a row a module.
        undos: what takes each rewrite back.

    Attributes:
        rows: as given, those that differ in the module alone put together.
    """

    def __init__(self, rows: Iterable[Row], undos: Iterable[Undo]):
        self.rows = _together(rows)
        self._undos = list(undos)

    @property
    def replaced(self) -> list[Row]:
        """Rows of what was replaced."""
        return [row for row in self.rows if row.what]

    @property
    def left(self) -> list[Row]:
        """Rows of what was left as it is."""
        return [row for row in self.rows if not row.what]

    def revert(self) -> None:
        """Put everything back as it was. A second call changes nothing."""
        while self._undos:
            self._undos.pop()()

    def __str__(self) -> str:
        if not self.rows:
            return "nothing in this model is known to accelerate"
        table = [("rewrite", "module", "now"), *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(2)]
        return "\n".join(
            f"{line[0]:{widths[0]}}  {line[1]:{widths[1]}}  {line[2]}".rstrip() for line in table
        )


def _together(rows: Iterable[Row]) -> list[Row]:
    found: dict[tuple, list[str]] = {}
    for row in rows:
        key = (row.rewrite, row.kind, row.what, row.reason)
        found.setdefault(key, []).extend(row.modules)
    return [
        Row(rewrite, tuple(modules), kind, what, reason)
        for (rewrite, kind, what, reason), modules in found.items()
    ]
