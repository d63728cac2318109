"""Names and colours of classes, from files that data sets come with."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

#: In this order: the first that is there is read.
FILES = ("classes.txt", "label_colors.txt", "class_dict.csv")
_COLOURED = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(.+)")


class Classes(NamedTuple):
    """Names of classes, and their colours in label maps if the file says them."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...] | None
    source: str


def find_classes(root: Path) -> Classes | None:
    """Classes of a data folder, from one of :data:`FILES`, or ``None``.

    ``classes.txt`` has a name a line, ``label_colors.txt`` lines as ``128 64 128 road``,
    ``class_dict.csv`` columns ``name,r,g,b``.

    Raises:
        ValueError: if a file is there, but not of this form; or names are there twice.
    """
    for name in FILES:
        path = root / name
        if not path.is_file():
            continue
        try:
            text = path.read_text()
            found = _from_csv(text) if name.endswith(".csv") else _from_lines(text)
        except (UnicodeDecodeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} does not hold classes as {name} should: {error}") from error
        names = [name for name, _ in found]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise ValueError(
                f"{path} names {'a class twice: ' + twice[0] if twice else 'no class'}"
            )
        colours = [colour for _, colour in found if colour is not None]
        return Classes(tuple(names), tuple(colours) if colours else None, name)
    return None


def _from_lines(text: str) -> list[tuple[str, tuple[int, int, int] | None]]:
    found: list[tuple[str, tuple[int, int, int] | None]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _COLOURED.fullmatch(line)
        if match:
            found.append((match[4].strip(), (int(match[1]), int(match[2]), int(match[3]))))
        else:
            found.append((line, None))
    if len({colour is None for _, colour in found}) > 1:
        raise ValueError("some lines have colours, and some have none")
    return found


def _from_csv(text: str) -> list[tuple[str, tuple[int, int, int] | None]]:
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    return [(row["name"], (int(row["r"]), int(row["g"]), int(row["b"]))) for row in rows]
