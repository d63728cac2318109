"""Colours for what has none."""

from __future__ import annotations

import colorsys


def distinct_colour(index: int) -> tuple[int, int, int]:
    """A colour that neighbours in the sequence do not look like."""
    hue = index * 0.618034 % 1  # steps of the golden ratio
    value = 1.0 if index % 2 else 0.8
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.85, value))
