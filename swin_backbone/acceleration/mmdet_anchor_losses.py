"""Losses of mmdet's RetinaNet from the anchors that have an object, with one wait for the device.

Stock heads lay out labels, weights and boxes for all anchors of an image, a third of a million at
800x1344, ask the device four times in each image which of them count, and whether any level has an
object. Here one wait tells which anchors of the batch have one, and only their boxes are compared:
the same sums. Losses of classes are of all anchors, level by level, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mmdet_assigned_anchors import (
    are_unusual,
    assigned,
    class_losses,
    laid_out,
    other_anchors,
)
from .mmdet_box_losses import LOSSES, as_tensor, other_loss
from .mmdet_internals import LOSS_METHODS
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods


def _stock() -> type | None:
    return imported("mmdet.models.dense_heads.retina_head", "RetinaHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(head: nn.Module) -> str | None:
    reason = own_methods(head, LOSS_METHODS, _stock())
    if reason is not None:
        return reason
    return other_anchors(head) or other_loss(head, LOSSES)


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
    """``AnchorHead.loss_by_feat``; losses of boxes of all levels together."""
    levels, counted = laid_out(head, cls_scores, batch_img_metas)
    if are_unusual(counted, batch_gt_instances):
        return type(head).loss_by_feat(
            head, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas,
            batch_gt_instances_ignore,
        )  # fmt: skip
    ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)

    def assign(image: int, priors):
        return head.assigner.assign(priors, batch_gt_instances[image], ignored[image])

    found = assigned(torch.cat(levels), counted, batch_gt_instances, assign)
    boxes, total = found.chosen(bbox_preds, 4), found.total
    return {
        "loss_cls": class_losses(head, cls_scores, found, total),
        "loss_bbox": [_box_loss(head, boxes, *found.pairs(), total)],
    }


def _box_loss(
    head: nn.Module, boxes: Tensor, priors: Tensor, objects: Tensor, total: int
) -> Tensor:
    """Of the anchors with an object: predictions, anchors and objects, (N, 4) each."""
    if not len(boxes):  # zero, of which gradients are zeros, too
        return boxes.to(torch.promote_types(boxes.dtype, priors.dtype)).sum()
    if head.reg_decoded_bbox:
        boxes = as_tensor(head.bbox_coder.decode(priors, boxes))
    else:
        objects = head.bbox_coder.encode(priors, objects)
        boxes = boxes.to(torch.promote_types(boxes.dtype, objects.dtype))
    # Without weights, which are one: mmdet asks the device whether any is more than zero.
    return head.loss_bbox(boxes, objects, avg_factor=total)


REWRITE = Rewrite(
    "anchor_losses",
    "losses of all anchors with one wait for the GPU",
    finds,
    why_not,
    apply,
)
