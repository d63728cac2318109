"""Losses of mmdet's RTMDet from the predictions that are matched with an object.

Stock heads ask the device for each object of an image which predictions are its own, in each level
which have an object, and what losses are divided by. Here one wait tells which predictions of the
batch have an object: the same sums. mmdet's loss of classes waits once for each level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mmdet_assigned_anchors import (
    Assigned,
    are_unusual,
    assigned,
    by_level,
    flat_predictions,
    labels_of,
    laid_out,
    of_level,
    other_anchors,
)
from .mmdet_box_losses import OVERLAPS, other_loss, weighted_mean
from .mmdet_internals import LOSS_METHODS
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods


def _stock() -> type | None:
    return imported("mmdet.models.dense_heads.rtmdet_head", "RTMDetHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(head: nn.Module) -> str | None:
    reason = own_methods(head, LOSS_METHODS, _stock())
    if reason is not None:
        return reason
    reason = other_anchors(head, "QualityFocalLoss") or other_loss(head, OVERLAPS)
    if reason is None and head.train_cfg["allowed_border"] >= 0:
        return "points beyond a border do not count"
    return reason


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"loss_by_feat": loss_by_feat})


def loss_by_feat(
    head: nn.Module,
    cls_scores: Sequence[Tensor],
    bbox_preds: Sequence[Tensor],
    batch_gt_instances: Sequence,
    batch_img_metas: Sequence[dict],
    batch_gt_instances_ignore: Sequence | None = None,
) -> dict[str, list[Tensor]]:
    """``RTMDetHead.loss_by_feat``; losses of boxes of all levels together."""
    points, counted = laid_out(head, cls_scores, batch_img_metas, with_stride=True)
    if are_unusual(counted, batch_gt_instances):
        return type(head).loss_by_feat(
            head, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas,
            batch_gt_instances_ignore,
        )  # fmt: skip
    boxes, overlaps = _decoded(points, bbox_preds), []
    ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
    scores = flat_predictions(cls_scores, head.cls_out_channels).detach()

    def assign(image: int, priors):
        places = counted[image]
        for name, values in (("scores", scores), ("bboxes", boxes.detach())):
            of_image = values[image]
            setattr(priors, name, of_image if places is None else of_image[places])
        result = head.assigner.assign(priors, batch_gt_instances[image], ignored[image])
        found = result.max_overlaps
        if places is not None:
            found = found.new_zeros(boxes.shape[1]).index_copy(0, places, found)
        overlaps.append(found)
        return result

    found = assigned(torch.cat(points), counted, batch_gt_instances, assign)
    return _losses(head, cls_scores, boxes, found, torch.stack(overlaps))


def _decoded(points: Sequence[Tensor], moves: Sequence[Tensor]) -> Tensor:
    """(B, A, 4): boxes of how far their sides are from points."""
    decode = imported("mmdet.structures.bbox", "distance2bbox")
    levels = zip(points, moves, strict=True)
    return torch.cat([decode(point, of_level(move, 4)) for point, move in levels], 1)


def _losses(
    head: nn.Module, scores: Sequence[Tensor], boxes: Tensor, found: Assigned, overlaps: Tensor
) -> dict[str, list[Tensor]]:
    """Of all levels; ``overlaps`` (B, A) are those of predictions with their objects."""
    labels, weights = labels_of(head, found)
    quality = torch.where(labels < head.num_classes, overlaps, 0.0).float()
    classes = [
        head.loss_cls(level, (label, good), weight, avg_factor=1.0)
        for level, label, good, weight in by_level(head, scores, labels, quality, weights)
    ]
    share = imported("mmdet.utils", "reduce_mean")(quality.sum()).clamp(min=1)
    matched = found.picked(boxes), found.pairs()[1], found.picked(quality)
    return {
        "loss_cls": [(one / share).to(one.dtype) for one in classes],
        "loss_bbox": [weighted_mean(head, *matched)],
    }


REWRITE = Rewrite(
    "anchor_losses",
    "losses of all predictions with few waits for the GPU",
    finds,
    why_not,
    apply,
)
