"""Which maps a backbone returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class FeatureInfo(NamedTuple):
    """One map that a backbone returns.

    Attributes:
        stage: index of the stage, from 0.
        channels: channels of the map.
        stride: pixels of the image per row and per column of the map.
    """

    stage: int
    channels: int
    stride: tuple[int, int]


def describe_features(
    stages: Iterable[int], channels: Sequence[int], strides: Sequence[tuple[int, int]]
) -> list[FeatureInfo]:
    """Describe the maps of some stages.

    Args:
        stages: indices of the stages that are returned.
        channels: of each stage.
        strides: step into each stage, from the stage before it (from the image into stage 0).
    """
    info = []
    for stage in stages:
        rows = columns = 1
        for step_rows, step_columns in strides[: stage + 1]:
            rows, columns = rows * step_rows, columns * step_columns
        info.append(FeatureInfo(stage, channels[stage], (rows, columns)))
    return info
