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
    counted_anchors,
    labels_of,
    other_anchors,
)
from .mmdet_atss_losses import EPSILON
from .mmdet_atss_losses import LOSSES as WEIGHTED
from .mmdet_box_losses import other_loss
from .mmdet_internals import LOSS_METHODS
from .rewrite import Rewrite, Undo, imported, is_of, own_method, replace_methods


def _stock() -> type | None:
    return imported("mmdet.models.dense_heads.rtmdet_head", "RTMDetHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(head: nn.Module) -> str | None:
    for name in LOSS_METHODS:
        reason = own_method(head, name, _stock())
        if reason is not None:
            return reason
    reason = other_anchors(head, "QualityFocalLoss") or other_loss(head, WEIGHTED)
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
    sizes = [tuple(x.shape[2:]) for x in cls_scores]
    points = head.prior_generator.grid_priors(sizes, device=cls_scores[0].device, with_stride=True)
    anchors = torch.cat(list(points))
    counted = counted_anchors(head, anchors, sizes, batch_img_metas)
    if are_unusual(counted, batch_gt_instances):
        return type(head).loss_by_feat(
            head, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas,
            batch_gt_instances_ignore,
        )  # fmt: skip
    boxes, overlaps = _decoded(points, bbox_preds), []
    ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
    scores = torch.cat([_flat(one, head.cls_out_channels) for one in cls_scores], 1).detach()

    def assign(image: int, priors):
        places = counted[image]
        for name, values in (("scores", scores), ("bboxes", boxes.detach())):
            of_image = values[image]
            setattr(priors, name, of_image if places is None else of_image[places])
        result = head.assigner.assign(priors, batch_gt_instances[image], ignored[image])
        found = result.max_overlaps
        if places is not None:
            found = found.new_zeros(len(anchors)).index_copy(0, places, found)
        overlaps.append(found)
        return result

    found = assigned(anchors, counted, batch_gt_instances, assign)
    return _losses(head, cls_scores, boxes, found, torch.stack(overlaps))


def _flat(level: Tensor, channels: int) -> Tensor:
    return level.permute(0, 2, 3, 1).reshape(len(level), -1, channels)


def _decoded(points: Sequence[Tensor], moves: Sequence[Tensor]) -> Tensor:
    """(B, A, 4): boxes of how far their sides are from points."""
    decode = imported("mmdet.structures.bbox", "distance2bbox")
    levels = zip(points, moves, strict=True)
    return torch.cat([decode(point, _flat(move, 4)) for point, move in levels], 1)


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
    chosen = [part[place] for part, place in zip(boxes, found.places, strict=True)]
    good = [part[place] for part, place in zip(quality, found.places, strict=True)]
    box_loss, total = _box_loss(head, torch.cat(chosen), found, torch.cat(good))
    mean = imported("mmdet.utils", "reduce_mean")
    share = mean(quality.sum()).clamp(min=1)
    return {
        "loss_cls": [(one / share).to(one.dtype) for one in classes],
        "loss_bbox": [(box_loss / mean(total).clamp(min=1)).to(box_loss.dtype)],
    }


def _box_loss(
    head: nn.Module, boxes: Tensor, found: Assigned, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Of predictions with an object (N, 4) and their weights (N,): the sum, and that of weights."""
    if not len(boxes):  # zero, of which gradients are zeros, too
        return boxes.sum() * 0, weights.sum()
    # One by one: of weights mmdet asks the device whether any is more than zero.
    each = head.loss_bbox(boxes, found.pairs()[1], reduction_override="none")
    return (each * weights).sum() / (1 + EPSILON), weights.sum()


REWRITE = Rewrite(
    "anchor_losses",
    "losses of all predictions with few waits for the GPU",
    finds,
    why_not,
    apply,
)
