"""Versions of packages, compared."""

from __future__ import annotations

import re


def release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: ``'2.4.0a0+git'`` is ``(2, 4, 0)``."""
    match = re.match(r"\d+(\.\d+)*", str(version))
    return tuple(map(int, match[0].split("."))) if match else ()
