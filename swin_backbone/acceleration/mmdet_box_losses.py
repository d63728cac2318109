"""Losses of mmdet's box head without asking the device what the host knows.

mmdet asks how many boxes count, whether any has an object and which, and whether any weight is more
than zero: seven waits, the first for all of the head's layers. Boxes with an object come first in
each image, and how many there are was known when they were drawn. The same losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mmdet_internals import EPS
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods

METHODS = ("loss_and_target", "loss", "get_targets", "_get_targets_single")
#: Losses that are sums over boxes, of which those of overlaps have a weight for each box.
OVERLAPS = ("IoULoss", "GIoULoss", "DIoULoss", "CIoULoss")
LOSSES = ("L1Loss", "SmoothL1Loss", *OVERLAPS)


def _stock() -> type | None:
    return imported("mmdet.models.roi_heads.bbox_heads.bbox_head", "BBoxHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(head: nn.Module) -> str | None:
    reason = own_methods(head, METHODS, _stock())
    if reason is not None:
        return reason
    if not (head.with_cls and head.with_reg) or head.custom_activation:
        return "its losses are not those of classes and of boxes"
    return other_loss(head, LOSSES)


def other_loss(head: nn.Module, known: Sequence[str]) -> str | None:
    """Why a head's losses of boxes are no means of known ones, if they are not."""
    loss = head.loss_bbox
    if type(loss) not in [imported("mmdet.models.losses", name) for name in known]:
        return f"its loss_bbox is {type(loss).__name__}, and none of {', '.join(known)}"
    return None if loss.reduction == "mean" else "its loss_bbox is no mean"


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"loss_and_target": loss_and_target})


def loss_and_target(
    head: nn.Module,
    cls_score: Tensor,
    bbox_pred: Tensor,
    rois: Tensor,
    sampling_results: Sequence,
    rcnn_train_cfg,
    concat: bool = True,
    reduction_override: str | None = None,
) -> dict:
    """``BBoxHead.loss_and_target``."""
    if not concat or reduction_override is not None or not len(cls_score):
        return type(head).loss_and_target(
            head, cls_score, bbox_pred, rois, sampling_results, rcnn_train_cfg, concat,
            reduction_override,
        )  # fmt: skip
    targets = head.get_targets(sampling_results, rcnn_train_cfg)
    labels, label_weights, box_targets, _ = targets
    # All weights are more than zero, so that all boxes count.
    loss = head.loss_cls(cls_score, labels, label_weights, avg_factor=float(len(labels)))
    losses = loss if isinstance(loss, dict) else {"loss_cls": loss}
    losses["acc"] = imported("mmdet.models.losses", "accuracy")(cls_score, labels)
    places = _with_objects(sampling_results, labels.device)
    boxes = bbox_pred.view(len(bbox_pred), -1, box_targets.shape[1])
    boxes = boxes[places, 0 if head.reg_class_agnostic else labels[places]]
    if len(places):
        if head.reg_decoded_bbox:
            boxes = as_tensor(head.bbox_coder.decode(rois[places, 1:], boxes))
        losses["loss_bbox"] = head.loss_bbox(boxes, box_targets[places], avg_factor=len(labels))
    else:  # zero, of which gradients are zeros, too
        losses["loss_bbox"] = boxes.sum()
    return {"loss_bbox": losses, "bbox_targets": targets}


def weighted_mean(head: nn.Module, boxes: Tensor, objects: Tensor, weights: Tensor) -> Tensor:
    """A head's loss of boxes (N, 4) against objects (N, 4), divided by the mean over processes of
    what all weights (N,) add up to, but at least by one."""
    if len(boxes):
        # One by one: of weights mmdet asks the device whether any is more than zero.
        each = head.loss_bbox(boxes, objects, reduction_override="none")
        loss = (each * weights).sum() / (1 + EPS)
    else:  # zero, of which gradients are zeros, too
        loss = boxes.sum() * 0
    mean = imported("mmdet.utils", "reduce_mean")
    return (loss / mean(weights.sum()).clamp(min=1)).to(loss.dtype)


def as_tensor(boxes) -> Tensor:
    return imported("mmdet.structures.bbox", "get_box_tensor")(boxes)


def _with_objects(sampling_results: Sequence, device: torch.device) -> Tensor:
    """Places of the boxes that have an object, which come first in each image."""
    places, start = [], 0
    for result in sampling_results:
        many = len(result.pos_priors)
        places.append(torch.arange(start, start + many, device=device))
        start += many + len(result.neg_priors)
    return torch.cat(places)


REWRITE = Rewrite(
    "box_losses",
    "losses of boxes without waits for the GPU",
    finds,
    why_not,
    apply,
)
