"""Boxes assigned to objects without asking the device about each object.

mmdet's assigner goes through the objects of an image to give each its best boxes, and waits for the
device at every one. The same steps are taken here for all at once: the same assignment.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mmdet_parts import rewrite_of_parts
from .rewrite import imported

#: Objects whose best boxes are looked for at once; for each there is a number for every box.
TOGETHER = 16


def assign_wrt_overlaps(assigner, overlaps: Tensor, gt_labels: Tensor):
    """``MaxIoUAssigner.assign_wrt_overlaps``."""
    if 0 in overlaps.shape or gt_labels is None:
        return type(assigner).assign_wrt_overlaps(assigner, overlaps, gt_labels)
    best, which = overlaps.max(dim=0)
    chosen = torch.where(_is_negative(assigner.neg_iou_thr, best), 0, -1)
    chosen = torch.where(best >= assigner.pos_iou_thr, which + 1, chosen)
    if assigner.match_low_quality:
        for start in range(0, len(overlaps), TOGETHER):
            last = _best_boxes(assigner, overlaps[start : start + TOGETHER], start + 1)
            chosen = torch.where(last > 0, last, chosen)
    labels = torch.where(chosen > 0, gt_labels[(chosen - 1).clamp(min=0)], -1)
    result = imported("mmdet.models.task_modules.assigners.assign_result", "AssignResult")
    return result(num_gts=len(overlaps), gt_inds=chosen, max_overlaps=best, labels=labels)


def _is_negative(threshold: float | tuple[float, float], best: Tensor) -> Tensor:
    if isinstance(threshold, float):
        threshold = (0, threshold)
    if not isinstance(threshold, tuple):
        return torch.zeros_like(best, dtype=torch.bool)
    return (best >= threshold[0]) & (best < threshold[1])


def _best_boxes(assigner, overlaps: Tensor, first: int) -> Tensor:
    """Number of the last object, counted from ``first``, that has a box as its best; or zero."""
    most, place = overlaps.max(dim=1)
    numbers = torch.arange(first, first + len(overlaps), device=overlaps.device)
    numbers = torch.where(most >= assigner.min_pos_iou, numbers, 0)
    if assigner.gt_max_assign_all:
        return torch.where(overlaps == most[:, None], numbers[:, None], 0).amax(0)
    last = numbers.new_zeros(overlaps.shape[1])
    return last.scatter_reduce(0, place, numbers, "amax")


REWRITE = rewrite_of_parts(
    "assigners",
    "boxes assigned to all objects at once",
    ("assigner", "bbox_assigner"),
    ("mmdet.models.task_modules.assigners.max_iou_assigner", "MaxIoUAssigner"),
    {"assign_wrt_overlaps": assign_wrt_overlaps},
)
