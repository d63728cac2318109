"""Proposals that overlap better ones, left out of all images of a batch at once.

mmdet goes from image to image, and waits for the device twice in each: to learn whether a box is
too small, and how many are kept. Here images share every step, and one wait. The same proposals.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .. import ops
from .rewrite import imported

#: From so many boxes on mmcv takes the levels of an image one by one.
SPLIT = 10_000


def go_together(boxes: Tensor, cfg: Mapping, rescale: bool) -> bool:
    """Whether :func:`suppressed_together` takes images, which else go one by one.

    Args:
        boxes: (B, N, 4).
        cfg: settings of the region proposal network's proposals.
        rescale: whether boxes are to be those of the images as they were, each with a scale of
            its own.
    """
    settings = dict(cfg.get("nms") or {})
    by_threshold = settings.pop("type", "nms") == "nms" and settings.keys() == {"iou_threshold"}
    return not rescale and by_threshold and 0 < boxes.shape[1] < SPLIT


def suppressed_together(boxes: Tensor, scores: Tensor, levels: Tensor, cfg: Mapping) -> list:
    """Proposals of each image, best first, as ``RPNHead._bbox_post_process`` leaves them.

    Args:
        boxes: (B, N, 4).
        scores: (B, N).
        levels: (N,), those of different levels leave each other alone.
        cfg: as of :func:`go_together`.
    """
    valid = _large_enough(boxes, cfg.get("min_bbox_size", -1))
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    valid, boxes = valid.gather(1, order), _gather(boxes, order)
    stays = valid & _stays(_moved_apart(boxes, valid, levels[order]), scores, cfg["nms"])
    most = min(cfg["max_per_img"], boxes.shape[1])
    counts = stays.sum(1).clamp(max=most)
    places = stays.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
    boxes, scores = _gather(boxes, places), scores.gather(1, places)
    kind = imported("mmengine.structures", "InstanceData")
    return [
        kind(bboxes=box[:count], scores=score[:count], labels=places.new_zeros(count))
        for box, score, count in zip(boxes, scores, counts.tolist(), strict=True)
    ]


def _gather(boxes: Tensor, places: Tensor) -> Tensor:
    return boxes.gather(1, places[..., None].expand(-1, -1, 4))


def _large_enough(boxes: Tensor, least: float) -> Tensor:
    if least < 0:
        return boxes.new_ones(boxes.shape[:2], dtype=torch.bool)
    return ((boxes[..., 2:] - boxes[..., :2]) > least).all(-1)


def _moved_apart(boxes: Tensor, valid: Tensor, levels: Tensor) -> Tensor:
    """Boxes that overlap those of their level only; others than valid ones overlap none."""
    most = boxes.masked_fill(~valid[..., None], -torch.inf).amax((1, 2))
    moved = boxes + (levels.to(boxes) * (most + 1)[:, None])[..., None]
    return torch.where(valid[..., None], moved, 0)


def _stays(boxes: Tensor, scores: Tensor, cfg: Mapping) -> Tensor:
    """bool (B, N): by kernels, or image by image by what mmcv calls."""
    threshold = cfg["iou_threshold"]
    if ops.dispatch.suppression(boxes[0]) == "triton":
        return ops.unsuppressed(boxes, threshold)
    stays, nms = boxes.new_zeros(boxes.shape[:2], dtype=torch.bool), imported("mmcv.ops", "nms")
    for image, box, score in zip(stays, boxes, scores, strict=True):
        image[nms(box, score, threshold)[1]] = True
    return stays
