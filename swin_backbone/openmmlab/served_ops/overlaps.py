"""Overlaps of boxes, upright and rotated."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import at_least_float32

#: Pairs of rotated boxes at once; each takes about a hundred numbers on the way.
PAIRS = 2**17
#: Boxes with less than this, in square pixels, overlap nothing (as in mmcv).
LEAST_AREA = 1e-14


def overlaps(first: Tensor, second: Tensor, offset: int = 0, over_first: bool = False) -> Tensor:
    """Intersection over union of upright boxes (..., 4), x1, y1, x2, y2, which broadcast.

    Args:
        first: boxes.
        second: boxes.
        offset: 1 if x2 and y2 are the last pixels of a box, 0 if they are its borders.
        over_first: divide by the area of the first box instead of that of the union.
    """
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(
        first[..., :2], second[..., :2]
    )
    intersection = (sides + offset).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if over_first:
        return intersection / area
    return intersection / (
        area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - intersection
    )


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Overlaps of boxes given as x1, y1, x2, y2.

    Args:
        bboxes1: (N, 4).
        bboxes2: (M, 4); with ``aligned`` (N, 4).
        ious: (N, M), or with ``aligned`` (N,), written.
        mode: 0 for intersection over union, 1 for intersection over the first box.
        aligned: whether to compare box by box instead of all with all.
        offset: as in :func:`overlaps`.
    """
    first, second = at_least_float32(bboxes1), at_least_float32(bboxes2)
    if not aligned:
        first = first[:, None]
    ious.copy_(overlaps(first, second, offset, over_first=mode == 1))


@torch.no_grad()
def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Overlaps of rotated boxes: centre x and y, width, height, angle in radians, clockwise.

    Args:
        boxes1: (N, 5).
        boxes2: (M, 5); with ``aligned`` (N, 5).
        ious: (N * M,), or with ``aligned`` (N,), written.
        mode_flag: 0 for intersection over union, 1 for intersection over the first box.
        aligned: whether to compare box by box instead of all with all.
    """
    first, second = at_least_float32(boxes1), at_least_float32(boxes2)
    if aligned:
        ious.copy_(rotated_overlaps(first, second, over_first=mode_flag == 1))
        return
    rows = max(PAIRS // max(len(second), 1), 1)
    table = ious.view(len(first), len(second))
    for part, target in zip(first.split(rows), table.split(rows), strict=True):
        target.copy_(rotated_overlaps(part[:, None], second, over_first=mode_flag == 1))


def rotated_overlaps(first: Tensor, second: Tensor, over_first: bool = False) -> Tensor:
    """Intersection over union of rotated boxes (..., 5), which broadcast, as in
    :func:`box_iou_rotated`; 0 if either has no area."""
    areas = [box[..., 2] * box[..., 3] for box in (first, second)]
    intersection = _rotated_intersection(first, second)
    whole = areas[0] if over_first else areas[0] + areas[1] - intersection
    empty = (areas[0] < LEAST_AREA) | (areas[1] < LEAST_AREA)
    return torch.where(empty, torch.zeros_like(whole), intersection / whole)


def _rotated_intersection(first: Tensor, second: Tensor) -> Tensor:
    """Area of the intersection of rotated boxes (..., 5), which broadcast.

    In the frame of the first box, that is the integral over x, within the box, of y clamped to the
    box, along the outline of the second one (Green's theorem). Clamped coordinates are piecewise
    linear, so that trapezoids between the breaks are exact, and nothing depends on which corner
    lies inside: the area is continuous in the boxes, touching and equal ones included.
    """
    corners = _corners_in_frame_of(first, second)  # (..., 4, 2)
    half = (first[..., None, 2:4] / 2).expand_as(corners)
    step = corners.roll(-1, -2) - corners
    # Where an edge (at its fraction t of the way) crosses the lines on which the sides lie.
    crossings = torch.cat([(-half - corners) / step, (half - corners) / step], dim=-1)
    breaks = crossings.nan_to_num(0.0).clamp(0, 1).sort(-1).values
    ends = torch.zeros_like(breaks[..., :1])
    breaks = torch.cat([ends, breaks, ends + 1], dim=-1)[..., None]  # (..., 4, 6, 1)
    points = corners[..., None, :] + breaks * step[..., None, :]
    half = half[..., None, :]
    x, y = torch.minimum(torch.maximum(points, -half), half).unbind(-1)
    return (x.diff(dim=-1) * (y[..., 1:] + y[..., :-1]) / 2).sum((-1, -2)).abs()


def _corners_in_frame_of(first: Tensor, second: Tensor) -> Tensor:
    """Corners (..., 4, 2) of the second box, in order, where the first is upright around 0."""
    centre = _rotate(second[..., :2] - first[..., :2], -first[..., 4])
    signs = second.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    angle = (second[..., 4] - first[..., 4])[..., None]
    return centre[..., None, :] + _rotate(second[..., None, 2:4] * signs, angle)


def _rotate(points: Tensor, angle: Tensor) -> Tensor:
    x, y = points.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1)
