"""Targets of boxes without copies of numbers to the device.

mmdet makes tensors of the means and deviations of targets for each image, two copies that wait for
all that the device has to do. As numbers they wait for nothing; a GPU then multiplies by a
deviation's inverse where it divided, which is a rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mmdet_parts import rewrite_of_parts


def encode(coder, bboxes, gt_bboxes) -> Tensor:
    """``DeltaXYWHBBoxCoder.encode``: boxes (N, 4) that become objects (N, 4), as targets (N, 4)."""
    if not (_is_usual(bboxes, gt_bboxes) and _is_alike(coder.means) and _is_alike(coder.stds)):
        return type(coder).encode(coder, bboxes, gt_bboxes)
    boxes, objects = bboxes.float(), gt_bboxes.float()
    size, objects_size = (x[:, 2:] - x[:, :2] for x in (boxes, objects))
    middle, objects_middle = ((x[:, :2] + x[:, 2:]) * 0.5 for x in (boxes, objects))
    moves = ((objects_middle - middle) / size - coder.means[0]) / coder.stds[0]
    grows = (torch.log(objects_size / size) - coder.means[2]) / coder.stds[2]
    return torch.cat([moves, grows], 1)


def _is_usual(boxes, objects) -> bool:
    if not all(type(one) is Tensor and one.dim() == 2 for one in (boxes, objects)):
        return False
    return boxes.shape == objects.shape and boxes.shape[1] == 4


def _is_alike(numbers) -> bool:
    """Whether x and y, and width and height, have the same numbers."""
    return len(numbers) == 4 and numbers[0] == numbers[1] and numbers[2] == numbers[3]


REWRITE = rewrite_of_parts(
    "box_targets",
    "targets of boxes without copies to the GPU",
    ("bbox_coder",),
    ("mmdet.models.task_modules.coders.delta_xywh_bbox_coder", "DeltaXYWHBBoxCoder"),
    "encode",
    encode,
)
