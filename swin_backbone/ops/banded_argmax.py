"""Class maps of images whose scores come in windows or several times, by bands of rows.

All scores exist for a band only, so that memory does not grow with the image's height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry.resampling import axis
from .resized_argmax import FLIPS, ClassMap, Geometry, check, classes_of

#: Scores of a band: 16 MiB in float32 on a CPU, 256 MiB on a GPU; of both, a few copies exist.
BAND, BAND_ON_GPU = 2**22, 2**26


class Window(NamedTuple):
    """Scores of a part of the network's input.

    Attributes:
        logits: (B, K, h, w), floating point.
        top: where the window begins on the padded image, in pixels.
        left: likewise.
        height: of the window, to which ``logits`` are resized.
        width: likewise.
    """

    logits: Tensor
    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """An image as the network saw it once.

    Attributes:
        windows: that cover ``geometry.size``; where they overlap, the mean of their scores counts.
            Or a function from rows of the padded image to the windows that reach into them, so
            that not all need be there at once; rows are asked for in one direction.
        geometry: from the padded image to the result.
    """

    windows: Sequence[Window] | Callable[[slice], Sequence[Window]]
    geometry: Geometry

    @classmethod
    def whole(cls, logits: Tensor, geometry: Geometry) -> View:
        """Of scores of all of it at once."""
        return cls([Window(logits, 0, 0, *geometry.size)], geometry)

    def windows_at(self, rows: slice) -> Sequence[Window]:
        """At least those windows that reach into these rows of the padded image."""
        return self.windows(rows) if callable(self.windows) else self.windows

    def example(self) -> Tensor:
        """Scores of a window, for their shape, dtype and device."""
        return self.windows_at(slice(0, 1))[0].logits


def merged_argmax(
    views: Sequence[View], *, threshold: float | None = None, with_scores: bool = False
) -> ClassMap:
    """The class of each pixel of an image, from scores in windows, and of several views of it.

    As mmseg's sliding inference (the mean of overlapping windows' scores) and, for more than one
    view, its ``SegTTAModel`` (the mean of the views' softmax; with one class, whose scores mmseg
    keeps as sigmoids, of the sigmoid of these).

    Args:
        views: at least one. All have the same result's size.
        threshold: as of :func:`swin_backbone.ops.resized_argmax`.
        with_scores: whether to return scores too; for several views, their mean softmax.

    Raises:
        ValueError: for no view, views of different sizes, and windows that leave a part out.
    """
    views = [View(view.windows, view.geometry.checked()) for view in views]
    _check(views, threshold)
    examples = [view.example() for view in views]
    first = examples[0]
    height, width = views[0].geometry.final
    size = (len(first), height, width)
    classes = torch.empty(size, dtype=torch.int64, device=first.device)
    scores = first.new_empty(size, dtype=_dtype(first)) if with_scores else None
    for rows in _bands(first, height, width):
        parts = map(view_scores, views, [rows] * len(views), examples)
        found = _merged(parts, len(views), threshold, with_scores)
        classes[:, rows] = found.classes
        if scores is not None:
            scores[:, rows] = found.scores
    return ClassMap(classes, scores)


def view_scores(view: View, rows: slice, example: Tensor | None = None) -> Tensor:
    """Scores (B, K, rows, W) of some rows of the result.

    Args:
        view: of the image.
        rows: of the result.
        example: the view's, where it is at hand.
    """
    geometry = view.geometry
    left, _, top, _ = geometry.padding
    height, width = geometry.cropped
    example = view.example() if example is None else example
    dtype, device = _dtype(example), example.device
    table = axis(height, geometry.final[0], geometry.align_corners, dtype, device)
    lower = axis(height, geometry.final[0], geometry.align_corners, dtype).lower[rows].tolist()
    is_sized = height == geometry.final[0]  # rows are as they are to be
    begin, end = lower[0], lower[-1] + 1 if is_sized else min(lower[-1] + 2, height)
    flipped = geometry.flip == "vertical"
    source = slice(height - end, height - begin) if flipped else slice(begin, end)
    scores = _padded_scores(view, slice(source.start + top, source.stop + top), dtype)
    scores = scores[..., left : left + width]
    if geometry.flip is not None:
        scores = scores.flip(FLIPS[geometry.flip])
    scores = _columns(scores, geometry.final[1], geometry.align_corners)
    if is_sized:
        return scores
    return _rows(scores, table.lower[rows].long() - begin, table.weight[rows])


def _padded_scores(view: View, rows: slice, dtype: torch.dtype) -> Tensor:
    """(B, K, rows, W) of the padded image: the mean of windows."""
    width, align_corners = view.geometry.size[1], view.geometry.align_corners
    windows = view.windows_at(rows)
    if len(windows) == 1 and windows[0].width == width:
        top = windows[0].top
        own = slice(rows.start - top, rows.stop - top)
        return _window_scores(windows[0], own, align_corners, dtype)
    first = windows[0].logits
    total = first.new_zeros(*first.shape[:2], rows.stop - rows.start, width, dtype=dtype)
    count = first.new_zeros(rows.stop - rows.start, width, dtype=dtype)
    for window in windows:
        begin = max(rows.start, window.top)
        end = min(rows.stop, window.top + window.height)
        if begin < end:
            own = slice(begin - window.top, end - window.top)
            place = slice(begin - rows.start, end - rows.start)
            columns = slice(window.left, window.left + window.width)
            total[..., place, columns] += _window_scores(window, own, align_corners, dtype)
            count[place, columns] += 1
    return total.div_(count)


def _window_scores(window: Window, rows: slice, align_corners: bool, dtype: torch.dtype) -> Tensor:
    """Scores of some of a window's own rows."""
    samples, device = window.logits.shape[2], window.logits.device
    table = axis(samples, window.height, align_corners, dtype, device)
    lower = axis(samples, window.height, align_corners, dtype).lower
    first, last = int(lower[rows.start]), int(lower[rows.stop - 1])
    logits = window.logits[:, :, first : last + 2].to(dtype)
    mixed = _rows(logits, table.lower[rows].long() - first, table.weight[rows])
    return _columns(mixed, window.width, align_corners)


def _rows(x: Tensor, lower: Tensor, weight: Tensor) -> Tensor:
    """Rows of (B, K, h, W), each mixed of two."""
    upper = (lower + 1).clamp(max=x.shape[2] - 1)
    return torch.lerp(x[:, :, lower], x[:, :, upper], weight[:, None])


def _columns(x: Tensor, width: int, align_corners: bool) -> Tensor:
    if x.shape[3] == width:
        return x
    size = (x.shape[2], width)
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def _merged(parts, count: int, threshold: float | None, with_scores: bool) -> ClassMap:
    """Classes from the scores of each of ``count`` views."""
    if count == 1:
        return classes_of(next(parts), threshold, with_scores)
    mean = sum(map(_probabilities, parts)) / count
    if threshold is not None:
        mean = mean[:, 0]
        return ClassMap((mean > threshold).long(), mean)
    return classes_of(mean, None, with_scores)


def _probabilities(scores: Tensor) -> Tensor:
    return scores.sigmoid().sigmoid() if scores.shape[1] == 1 else scores.softmax(1)


def _bands(logits: Tensor, height: int, width: int) -> Iterator[slice]:
    scores = BAND_ON_GPU if logits.is_cuda else BAND
    step = max(1, scores // (len(logits) * logits.shape[1] * width))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _dtype(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _check(views: Sequence[View], threshold: float | None) -> None:
    given = [view for view in views if not callable(view.windows)]
    if not views or not all(view.windows for view in given):
        raise ValueError("views must be at least one, each of at least one window")
    sizes = {view.geometry.final for view in views}
    if len(sizes) > 1:
        raise ValueError(f"views must have results of one size, got {sorted(sizes)}")
    shapes = {tuple(window.logits.shape[:2]) for view in given for window in view.windows}
    if len(shapes) > 1:
        raise ValueError(f"windows must have the same images and classes, got {sorted(shapes)}")
    for view in given:
        check(view.windows[0].logits, threshold)
        if not _covers(view):
            raise ValueError(f"windows must cover all of {view.geometry.size}, and no more")


def _covers(view: View) -> bool:
    height, width = view.geometry.size
    seen = torch.zeros(height, width, dtype=torch.bool, device="cpu")
    for _, top, left, rows, columns in view.windows:
        if min(top, left) < 0 or top + rows > height or left + columns > width:
            return False
        seen[top : top + rows, left : left + columns] = True
    return bool(seen.all())
