"""Boxes assigned to objects without a copy of a number to the device.

mmdet makes a tensor of the smallest union that it divides by, for each image: a copy that waits for
all that the device has to do. Without it the host is done with the anchors of all images while the
device still computes the backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mmdet_parts import rewrite_of_parts
from .rewrite import imported

ASSIGNERS = "mmdet.models.task_modules.assigners"
#: What overlaps are divided by at least.
LEAST = 1e-6


def assign(assigner, pred_instances, gt_instances, gt_instances_ignore=None, **kwargs):
    """``MaxIoUAssigner.assign``."""
    objects, boxes = gt_instances.bboxes, pred_instances.priors
    if _is_usual(assigner, objects, boxes, gt_instances_ignore):
        return assigner.assign_wrt_overlaps(overlaps(objects, boxes), gt_instances.labels)
    return type(assigner).assign(
        assigner, pred_instances, gt_instances, gt_instances_ignore, **kwargs
    )


def _is_usual(assigner, objects: Tensor, boxes: Tensor, ignored) -> bool:
    """Whether boxes of single precision or double are compared with all objects, and no more."""
    stock = imported(f"{ASSIGNERS}.iou2d_calculator", "BboxOverlaps2D")
    calculator = assigner.iou_calculator
    if type(calculator) is not stock or calculator.dtype is not None:
        return False
    if 0 < assigner.gpu_assign_thr < len(objects) or assigner.perm_repeat_gt_cfg is not None:
        return False
    if assigner.ignore_iof_thr > 0 and ignored is not None and len(ignored.bboxes):
        return False
    return are_plain_boxes(objects, boxes)


def are_plain_boxes(objects, boxes) -> bool:
    """Whether there are objects (G, 4) and boxes (N, 4), tensors of one dtype."""
    return objects.dtype == boxes.dtype and all(
        type(one) is Tensor and one.dim() == 2 and one.shape[1] == 4 and len(one)
        for one in (objects, boxes)
    )


def overlaps(objects: Tensor, boxes: Tensor) -> Tensor:
    """(G, N): intersection over union of objects (G, 4) and boxes (N, 4), as mmdet rounds it."""
    left, top, right, bottom = objects[:, :, None].unbind(1)
    left_2, top_2, right_2, bottom_2 = boxes.unbind(1)
    wide = (torch.minimum(right, right_2) - torch.maximum(left, left_2)).clamp_(min=0)
    high = (torch.minimum(bottom, bottom_2) - torch.maximum(top, top_2)).clamp_(min=0)
    common = wide.mul_(high)
    area, area_2 = (right - left) * (bottom - top), (right_2 - left_2) * (bottom_2 - top_2)
    return common / (area + area_2).sub_(common).clamp_(min=LEAST)


REWRITE = rewrite_of_parts(
    "overlaps",
    "overlaps with objects without a copy to the GPU",
    ("assigner", "bbox_assigner"),
    (f"{ASSIGNERS}.max_iou_assigner", "MaxIoUAssigner"),
    {"assign": assign},
)
