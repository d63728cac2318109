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

from .mmdet_box_losses import LOSSES, as_tensor
from .mmdet_counted_anchors import counted_anchors, flat_predictions
from .mmdet_internals import LOSS_METHODS
from .mmdet_sampling import SAMPLERS, candidates_by_kind
from .rewrite import Rewrite, Undo, imported, is_of, own_method, replace_methods


def _stock() -> type | None:
    return imported("mmdet.models.dense_heads.retina_head", "RetinaHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(head: nn.Module) -> str | None:
    for name in LOSS_METHODS:
        reason = own_method(head, name, _stock())
        if reason is not None:
            return reason
    if type(head.sampler) is not imported(f"{SAMPLERS}.pseudo_sampler", "PseudoSampler"):
        return f"its anchors are drawn by {type(head.sampler).__name__}, and not all counted"
    focal = imported("mmdet.models.losses", "FocalLoss")
    if type(head.loss_cls) is not focal or head.cls_out_channels != head.num_classes:
        return f"its loss_cls is {type(head.loss_cls).__name__}, and no FocalLoss of sigmoids"
    loss = head.loss_bbox
    if type(loss) not in [imported("mmdet.models.losses", name) for name in LOSSES]:
        return f"its loss_bbox is {type(loss).__name__}, and none of {', '.join(LOSSES)}"
    return None if loss.reduction == "mean" else "its loss_bbox is no mean"


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
    sizes = [tuple(x.shape[2:]) for x in cls_scores]
    anchors = head.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
    anchors = torch.cat(list(anchors))
    counted = counted_anchors(head, anchors, sizes, batch_img_metas)
    if _is_unusual(counted, batch_gt_instances):
        return type(head).loss_by_feat(
            head, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas,
            batch_gt_instances_ignore,
        )  # fmt: skip
    ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
    images = list(zip(counted, batch_gt_instances, ignored, strict=True))
    numbers = [_numbers(head, anchors, *image) for image in images]
    places = [with_object for with_object, _ in candidates_by_kind(numbers)]
    total = sum(max(len(one), 1) for one in places)
    classes = [_labels(head, *one) for one in zip(numbers, batch_gt_instances, strict=True)]
    labels, weights = (torch.stack(one) for one in zip(*classes, strict=True))
    boxes = flat_predictions(bbox_preds, 4).view(len(images), -1, 4)
    chosen = torch.cat([boxes[image, one] for image, one in enumerate(places)])
    truth = [
        one.bboxes[number[place] - 1]
        for one, number, place in zip(batch_gt_instances, numbers, places, strict=True)
    ]
    priors = torch.cat([anchors[place] for place in places])
    return {
        "loss_cls": _class_losses(head, cls_scores, labels, weights, total),
        "loss_bbox": [_box_loss(head, chosen, priors, torch.cat(truth), total)],
    }


def _is_unusual(counted: Sequence[Tensor | None], objects: Sequence) -> bool:
    """Whether no anchor of an image counts, which mmdet calls an error, or boxes have a type."""
    return any(one is not None and not len(one) for one in counted) or any(
        type(one.bboxes) is not Tensor for one in objects
    )


def _numbers(head: nn.Module, anchors: Tensor, counted: Tensor | None, objects, ignored) -> Tensor:
    """(A,): the object of each anchor, from 1; 0 for none, -1 for anchors that do not count."""
    priors = type(objects)(priors=anchors if counted is None else anchors[counted])
    numbers = head.assigner.assign(priors, objects, ignored).gt_inds
    if counted is None:
        return numbers
    return numbers.new_full((len(anchors),), -1).index_copy(0, counted, numbers)


def _labels(head: nn.Module, numbers: Tensor, objects) -> tuple[Tensor, Tensor]:
    """Labels and weights (A,) of all anchors of an image."""
    has_object = numbers > 0
    labels = torch.full_like(numbers, head.num_classes)
    if len(objects.labels):
        labels = torch.where(has_object, objects.labels[(numbers - 1).clamp(min=0)], labels)
    weights = (numbers >= 0).float()
    if head.train_cfg["pos_weight"] > 0:
        weights = torch.where(has_object, head.train_cfg["pos_weight"], weights)
    return labels, weights


def _class_losses(
    head: nn.Module, scores: Sequence[Tensor], labels: Tensor, weights: Tensor, total: int
) -> list[Tensor]:
    """Of each level; labels and weights are (B, A)."""
    losses, first = [], 0
    for level in scores:
        level = level.permute(0, 2, 3, 1).reshape(-1, head.cls_out_channels)
        last = first + len(level) // len(labels)
        part = labels[:, first:last].flatten(), weights[:, first:last].flatten()
        losses.append(head.loss_cls(level, *part, avg_factor=total))
        first = last
    return losses


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
