"""Targets of boxes, and boxes of such targets, without copies of numbers to the device.

mmdet makes tensors of the means and deviations of targets for each call, two copies that wait for
all that the device has to do. As numbers they wait for nothing; a GPU then multiplies by a
deviation's inverse where it divided, which is a rounding. Boxes of targets are the same bits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from numbers import Real

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


def decode(coder, bboxes, pred_bboxes, max_shape=None, wh_ratio_clip: float = 16 / 1000):
    """``DeltaXYWHBBoxCoder.decode``: boxes (N, 4), each moved by targets (N, 4 K), as (N, 4 K)."""
    if (
        not _are_moved(bboxes, pred_bboxes)
        or not (_is_alike(coder.means) and _is_alike(coder.stds) and _are_numbers(max_shape))
        or coder.use_box_type
        or torch.jit.is_tracing()
        or torch.onnx.is_in_onnx_export()
        or torch.compiler.is_compiling()
    ):
        return type(coder).decode(coder, bboxes, pred_bboxes, max_shape, wh_ratio_clip)
    if not len(pred_bboxes):
        return pred_bboxes
    moves, grows = _moves(coder, pred_bboxes.reshape(-1, 4))
    boxes = bboxes.repeat(1, pred_bboxes.shape[1] // 4).reshape(-1, 4)
    middle, size = (boxes[:, :2] + boxes[:, 2:]) * 0.5, boxes[:, 2:] - boxes[:, :2]
    moves, most = size * moves, abs(math.log(wh_ratio_clip))
    if coder.add_ctr_clamp:
        moves = moves.clamp(max=coder.ctr_clamp, min=-coder.ctr_clamp)
        grows = grows.clamp(max=most)
    else:
        grows = grows.clamp(min=-most, max=most)
    middle, half = middle + moves, size * grows.exp() * 0.5
    boxes = torch.cat([middle - half, middle + half], -1)
    if coder.clip_border and max_shape is not None:
        boxes[:, 0::2].clamp_(min=0, max=max_shape[1])
        boxes[:, 1::2].clamp_(min=0, max=max_shape[0])
    return boxes.reshape(len(pred_bboxes), -1)


def _moves(coder, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How far middles move, and by how much sizes grow, (N, 2) each; in the targets' dtype."""
    found = []
    for part, first in ((targets[:, :2], 0), (targets[:, 2:], 2)):
        deviation, mean = (
            _rounded(float(numbers[first]), targets.dtype) for numbers in (coder.stds, coder.means)
        )
        part = part * deviation
        found.append(part + mean if mean else part)
    return found[0], found[1]


@lru_cache(64)
def _rounded(number: float, dtype: torch.dtype) -> float:
    """As a tensor of the dtype would hold it."""
    return torch.tensor(number, dtype=dtype, device="cpu").item()


def _are_moved(boxes, targets) -> bool:
    """Whether they are plain tensors of shapes (N, 4) and (N, 4 K)."""
    if not all(type(one) is Tensor and one.dim() == 2 for one in (boxes, targets)):
        return False
    return boxes.shape == (len(targets), 4) and targets.shape[1] % 4 == 0


def _are_numbers(shape) -> bool:
    return shape is None or (
        isinstance(shape, (tuple, list)) and all(isinstance(one, Real) for one in shape)
    )


def _is_usual(boxes, objects) -> bool:
    if not all(type(one) is Tensor and one.dim() == 2 for one in (boxes, objects)):
        return False
    return boxes.shape == objects.shape and boxes.shape[1] == 4


def _is_alike(numbers) -> bool:
    """Whether x and y, and width and height, have the same numbers."""
    return len(numbers) == 4 and numbers[0] == numbers[1] and numbers[2] == numbers[3]


REWRITE = rewrite_of_parts(
    "box_targets",
    "targets of boxes, and boxes of targets, without copies to the GPU",
    ("bbox_coder",),
    ("mmdet.models.task_modules.coders.delta_xywh_bbox_coder", "DeltaXYWHBBoxCoder"),
    {"encode": encode, "decode": decode},
)
