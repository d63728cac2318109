"""Anchors of ATSS assigned to objects without asking the device which they are.

mmdet picks the anchors that are near enough to an object by masks, whose counts it has to learn:
six waits for the device in each image. The same steps are taken here for all candidates: the same
assignment.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .mmdet_overlaps import ASSIGNERS, are_plain_boxes, overlaps
from .mmdet_parts import rewrite_of_parts
from .rewrite import imported

STOCK = (f"{ASSIGNERS}.atss_assigner", "ATSSAssigner")
#: Less than any overlap: of anchors that are no object's.
NONE = -100000000
#: How far within an object the middle of an anchor lies at least, in pixels.
WITHIN = 0.01


def assign(
    assigner, pred_instances, num_level_priors, gt_instances, gt_instances_ignore=None, **kwargs
):
    """``ATSSAssigner.assign``."""
    objects = gt_instances.bboxes
    if not _is_usual(assigner, pred_instances, objects, gt_instances_ignore) or kwargs:
        return type(assigner).assign(
            assigner, pred_instances, num_level_priors, gt_instances, gt_instances_ignore, **kwargs
        )
    boxes, labels = pred_instances.priors, gt_instances.labels
    # As mmdet has them, (N, G): means of (K, G) are sums in the order of its memory.
    common = overlaps(boxes, objects)
    places = _nearest(assigner, boxes, objects, num_level_priors)
    candidates = common.gather(0, places)
    threshold = candidates.mean(0) + candidates.std(0)
    chosen = (candidates >= threshold) & _are_within(boxes, objects, places)
    table = common.new_full((len(objects), len(boxes)), NONE)
    table = table.scatter(1, places.t(), torch.where(chosen, candidates, NONE).t())
    best, which = table.t().max(1)
    numbers = torch.where(best != NONE, which + 1, 0)
    labels = torch.where(numbers > 0, labels[(numbers - 1).clamp(min=0)], -1)
    result = imported(f"{ASSIGNERS}.assign_result", "AssignResult")
    return result(len(objects), numbers, best, labels=labels)


def _is_usual(assigner, predicted, objects, ignored) -> bool:
    """Whether anchors alone are compared with objects."""
    stock = imported(f"{ASSIGNERS}.iou2d_calculator", "BboxOverlaps2D")
    calculator = assigner.iou_calculator
    if type(calculator) is not stock or calculator.dtype is not None:
        return False
    if assigner.alpha is not None or "scores" in predicted or "bboxes" in predicted:
        return False
    if assigner.ignore_iof_thr > 0 and ignored is not None and len(ignored.bboxes):
        return False
    return are_plain_boxes(objects, predicted.priors)


def _nearest(assigner, boxes: Tensor, objects: Tensor, levels: Sequence[int]) -> Tensor:
    """(K, G): anchors whose middles are nearest to an object's, so many of each level."""
    distance = imported(STOCK[0], "bbox_center_distance")(objects, boxes)
    places, first = [], 0
    for level, count in zip(distance.split(list(levels)), levels, strict=True):
        places.append(level.topk(min(assigner.topk, count), dim=0, largest=False)[1] + first)
        first += count
    return torch.cat(places)


def _are_within(boxes: Tensor, objects: Tensor, places: Tensor) -> Tensor:
    """bool (K, G): whether the middle of a candidate lies in its object."""
    x, y = (((boxes[:, i] + boxes[:, i + 2]) / 2.0)[places] for i in (0, 1))
    left, top, right, bottom = objects.unbind(1)
    return torch.stack([x - left, y - top, right - x, bottom - y]).amin(0) > WITHIN


REWRITE = rewrite_of_parts(
    "assigners",
    "anchors assigned to all objects at once",
    ("assigner",),
    STOCK,
    {"assign": assign},
)
