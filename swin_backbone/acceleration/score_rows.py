"""Scores of an image a band of rows at a time, from scores at a head's own size.

However large an image is, no more than a band of its rows has scores for each class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import Geometry
from ..ops.resampling import axis

#: Bytes that the scores of a band may take, float32.
BAND_BYTES = 2**28


class Scores(Protocol):
    """Scores of the network's input.

    Attributes:
        size: rows and columns of the input, padding included.
        classes: number of classes.
    """

    size: tuple[int, int]
    classes: int

    def rows(self, start: int, stop: int) -> Tensor:
        """(B, K, stop - start, W) float32: scores of these rows."""


class WholeScores:
    """Scores of an input that the network saw whole.

    Args:
        logits: (B, K, h, w), as the head left them.
        size: rows and columns of the input.
        align_corners: of the head.
    """

    def __init__(self, logits: Tensor, size: tuple[int, int], align_corners: bool):
        self.logits = logits
        self.size = size
        self.classes = logits.shape[1]
        self.align_corners = align_corners

    def rows(self, start: int, stop: int) -> Tensor:
        resized = resize_rows(self.logits, self.size[0], start, stop, self.align_corners)
        return resize_columns(resized, self.size[1], self.align_corners)


class SlidScores:
    """Means of the scores of windows that overlap; windows run when their rows are asked for.

    Only the windows that reach into the rows asked for last are kept.

    Args:
        run: scores (n, K, h, w) of n windows, given as (top, left) of each.
        starts: first rows, and first columns, of the windows.
        window: rows and columns of a window.
        size: rows and columns of the input.
        classes: number of classes.
        align_corners: of the head.
    """

    def __init__(
        self,
        run: Callable[[list[tuple[int, int]]], Tensor],
        starts: tuple[list[int], list[int]],
        window: tuple[int, int],
        size: tuple[int, int],
        classes: int,
        align_corners: bool,
    ):
        self._run = run
        self._starts = starts
        self._window = window
        self.size = size
        self.classes = classes
        self.align_corners = align_corners
        self._kept: dict[int, Tensor] = {}

    def rows(self, start: int, stop: int) -> Tensor:
        height, width = self._window
        tops = [top for top in self._starts[0] if top < stop and top + height > start]
        self._kept = {top: self._kept[top] for top in tops if top in self._kept}
        total = count = None
        for top in tops:
            if top not in self._kept:
                self._kept[top] = self._run([(top, left) for left in self._starts[1]])
            windows = self._kept[top]
            if total is None:
                shape = (stop - start, self.size[1])
                total = windows.new_zeros((1, self.classes, *shape), dtype=torch.float32)
                count = windows.new_zeros(shape, dtype=torch.float32)
            first, last = max(start, top), min(stop, top + height)
            own = resize_rows(windows, height, first - top, last - top, self.align_corners)
            own = resize_columns(own, width, self.align_corners)
            for scores, left in zip(own, self._starts[1], strict=True):
                place = (slice(first - start, last - start), slice(left, left + width))
                total[0, :, place[0], place[1]] += scores
                count[place] += 1
        return total / count


def resize_rows(x: Tensor, rows: int, start: int, stop: int, align_corners: bool) -> Tensor:
    """Rows ``start`` to ``stop`` of (B, K, h, w) resized to ``rows`` rows, float32."""
    table = axis(x.shape[2], rows, align_corners, device=x.device)
    lower, weight = table.lower[start:stop].long(), table.weight[start:stop, None]
    upper = (lower + 1).clamp(max=x.shape[2] - 1)
    before, after = (x.index_select(2, rows).float() for rows in (lower, upper))
    return torch.lerp(before, after, weight)


def resize_columns(x: Tensor, columns: int, align_corners: bool) -> Tensor:
    """(B, K, H, w) resized to ``columns`` columns."""
    if x.shape[3] == columns:
        return x
    return F.interpolate(x, (x.shape[2], columns), mode="bilinear", align_corners=align_corners)


class View(NamedTuple):
    """An image as the network saw it.

    Attributes:
        scores: of the network's input, of this image alone.
        geometry: from there to the image.
    """

    scores: Scores
    geometry: Geometry


def bands(views: Sequence[View]) -> Iterator[list[Tensor]]:
    """Scores (1, K, rows, W) float32 of an image in each view, a band of its rows at a time.

    Args:
        views: of one image; all end at its size.
    """
    height, width = views[0].geometry.final
    columns = max(width, *(view.scores.size[1] for view in views))
    step = max(1, BAND_BYTES // (4 * views[0].scores.classes * columns))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        yield [_band(*view, rows) for view in views]


def _band(scores: Scores, geometry: Geometry, rows: slice) -> Tensor:
    left, _, top, _ = geometry.padding
    height, width = geometry.cropped
    table = axis(height, geometry.final[0], geometry.align_corners)
    first = int(table.lower[rows.start])
    last = min(int(table.lower[rows.stop - 1]) + 1, height - 1)
    if geometry.flip == "vertical":
        own = scores.rows(top + height - 1 - last, top + height - first).flip(2)
    else:
        own = scores.rows(top + first, top + last + 1)
    own = own[..., left : left + width]
    if geometry.flip == "horizontal":
        own = own.flip(3)
    lower = (table.lower[rows].long() - first).to(own.device)
    upper = (lower + 1).clamp(max=last - first)
    weight = table.weight[rows, None].to(own.device)
    own = torch.lerp(own.index_select(2, lower), own.index_select(2, upper), weight)
    return resize_columns(own, geometry.final[1], geometry.align_corners)
