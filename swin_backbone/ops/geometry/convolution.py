"""How a convolution looks at its input."""

from __future__ import annotations

from typing import NamedTuple


class Geometry(NamedTuple):
    """Of a convolution, rows before columns; ``offset_groups`` have offsets of their own."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    offset_groups: int
