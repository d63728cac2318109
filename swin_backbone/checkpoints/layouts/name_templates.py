"""Names with fields, such as ``layers.{s+1}.blocks.{b}.norm1.{p}``, matched and filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping

_FIELD = re.compile(r"\{(\d*)([a-z])(?:\+(\d+))?\}")


class Template:
    """A parameter's name with fields for what varies.

    Fields are ``{s}`` and ``{b}``, numbers of a stage and a block, possibly scaled and shifted as
    in ``{2s+1}``; ``{n}``, the number of a layer; and ``{p}``, a parameter (``weight``).

    Args:
        text: the name.
    """

    def __init__(self, text: str):
        self.text = text
        pattern, end = "", 0
        self._fields: dict[str, tuple[int, int]] = {}
        for found in _FIELD.finditer(text):
            factor, name, offset = found.groups()
            word = r"\w+" if name == "p" else r"\d+"
            pattern += re.escape(text[end : found.start()]) + f"(?P<{name}>{word})"
            self._fields[name] = (int(factor or 1), int(offset or 0))
            end = found.end()
        self._regex = re.compile(pattern + re.escape(text[end:]))

    def match(self, key: str) -> dict[str, str | int] | None:
        """The fields of a key, or ``None`` if it has another name."""
        found = self._regex.fullmatch(key)
        if found is None:
            return None
        values: dict[str, str | int] = {}
        for name, (factor, offset) in self._fields.items():
            if name == "p":
                values[name] = found[name]
                continue
            number, rest = divmod(int(found[name]) - offset, factor)
            if rest or number < 0:
                return None
            values[name] = number
        return values

    def fill(self, values: Mapping[str, str | int]) -> str:
        """The key with these fields."""

        def value(found: re.Match) -> str:
            factor, name, offset = found.groups()
            if name == "p":
                return str(values[name])
            return str(int(factor or 1) * values[name] + int(offset or 0))

        return _FIELD.sub(value, self.text)


class NameMap:
    """Two ways of naming the same parameters.

    Args:
        pairs: our template for each, and theirs.
    """

    def __init__(self, pairs: Mapping[str, str]):
        self._pairs = [(Template(ours), Template(theirs)) for ours, theirs in pairs.items()]

    def to_ours(self, key: str) -> str | None:
        """Our name for their key, or ``None`` if they have no such name."""
        return self._rename(key, [(theirs, ours) for ours, theirs in self._pairs])

    def to_theirs(self, key: str) -> str | None:
        """Their name for our key, or ``None`` if they have no such parameter."""
        return self._rename(key, self._pairs)

    @staticmethod
    def _rename(key: str, pairs: list[tuple[Template, Template]]) -> str | None:
        for source, target in pairs:
            values = source.match(key)
            if values is not None:
                return target.fill(values)
        return None
