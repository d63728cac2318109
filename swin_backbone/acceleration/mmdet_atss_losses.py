"""Losses of mmdet's ATSS from the anchors that have an object, with one wait for the device.

Stock heads lay out labels, weights and boxes for all anchors of an image, ask the device in each
image and level which of them count and which have an object, and read what losses are divided by.
Here one wait tells which anchors of the batch have an object, and only their boxes are decoded and
compared: the same sums. Losses of classes are of all anchors, level by level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .mmdet_assigned_anchors import (
    are_unusual,
    assigned,
    class_losses,
    laid_out,
    other_anchors,
)
from .mmdet_atss_assigners import STOCK as ASSIGNER
from .mmdet_box_losses import OVERLAPS, as_tensor, other_loss, weighted_mean
from .mmdet_internals import LOSS_METHODS
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods


def _stock() -> type | None:
    return imported("mmdet.models.dense_heads.atss_head", "ATSSHead")


def finds(module: nn.Module) -> bool:
    # RTMDet's, which is one, has other losses.
    other = imported("mmdet.models.dense_heads.rtmdet_head", "RTMDetHead")
    return is_of(module, _stock()) and not is_of(module, other)


def why_not(head: nn.Module) -> str | None:
    reason = own_methods(
        head, (*LOSS_METHODS, "centerness_target", "get_num_level_anchors_inside"), _stock()
    )
    if reason is not None:
        return reason
    reason = other_anchors(head) or other_loss(head, OVERLAPS)
    if reason is not None:
        return reason
    if not head.reg_decoded_bbox:
        return "its losses are of coded boxes"
    if type(head.assigner) is not imported(*ASSIGNER):
        return f"its anchors are assigned by {type(head.assigner).__name__}"
    centers = head.loss_centerness
    if type(centers) is not imported("mmdet.models.losses", "CrossEntropyLoss"):
        return f"its loss_centerness is {type(centers).__name__}, and no CrossEntropyLoss"
    return None


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"loss_by_feat": loss_by_feat})


def loss_by_feat(
    head: nn.Module,
    cls_scores: Sequence[Tensor],
    bbox_preds: Sequence[Tensor],
    centernesses: Sequence[Tensor],
    batch_gt_instances: Sequence,
    batch_img_metas: Sequence[dict],
    batch_gt_instances_ignore: Sequence | None = None,
) -> dict[str, list[Tensor]]:
    """``ATSSHead.loss_by_feat``; losses of boxes of all levels together."""
    levels, counted = laid_out(head, cls_scores, batch_img_metas)
    if are_unusual(counted, batch_gt_instances):
        return type(head).loss_by_feat(
            head, cls_scores, bbox_preds, centernesses, batch_gt_instances, batch_img_metas,
            batch_gt_instances_ignore,
        )  # fmt: skip
    ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
    counts = _counts_of_levels(counted, [len(one) for one in levels])

    def assign(image: int, priors):
        return head.assigner.assign(
            priors, counts[image], batch_gt_instances[image], ignored[image]
        )

    found = assigned(torch.cat(levels), counted, batch_gt_instances, assign)
    mean = imported("mmdet.utils", "reduce_mean")
    total = mean(torch.full((), float(found.total), device=cls_scores[0].device))
    priors, objects = found.pairs()
    weights = _centerness(priors, objects)
    boxes = as_tensor(head.bbox_coder.decode(priors, found.chosen(bbox_preds, 4)))
    centers = found.chosen(centernesses, 1)[:, 0]
    return {
        "loss_cls": class_losses(head, cls_scores, found, total),
        "loss_bbox": [weighted_mean(head, boxes, objects, weights)],
        "loss_centerness": [_center_loss(head, centers, weights, total)],
    }


def _counts_of_levels(counted: Sequence[Tensor | None], levels: Sequence[int]) -> list[list[int]]:
    """How many anchors of each level count, of each image; images of one size share a tensor."""
    found = {id(None): list(levels)}
    for places in counted:
        if id(places) not in found:
            ends = torch.tensor(levels, device="cpu").cumsum(0).to(places.device)
            ends = [0, *torch.searchsorted(places, ends).tolist()]
            found[id(places)] = [end - start for start, end in pairwise(ends)]
    return [found[id(places)] for places in counted]


def _center_loss(head: nn.Module, centers: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """Of how central anchors are predicted to lie (N,), and do lie (N,)."""
    if not len(centers):  # zero, of which gradients are zeros, too
        return centers.sum() * 0
    loss = head.loss_centerness(centers, weights, avg_factor=total)
    # mmdet adds zeros of the levels without an object, which are of the maps' dtype.
    return loss.to(torch.promote_types(loss.dtype, centers.dtype))


def _centerness(priors: Tensor, objects: Tensor) -> Tensor:
    """(N,): ``ATSSHead.centerness_target``, which asks the device whether any is no number; anchors
    of :class:`ATSSAssigner` lie within their objects, where all are."""
    parts = []
    for i in (0, 1):
        middle = (priors[:, i + 2] + priors[:, i]) / 2
        sides = torch.stack([middle - objects[:, i], objects[:, i + 2] - middle], dim=1)
        parts.append(sides.min(dim=-1)[0] / sides.max(dim=-1)[0])
    return torch.sqrt(parts[0] * parts[1])


REWRITE = Rewrite(
    "anchor_losses",
    "losses of all anchors with one wait for the GPU",
    finds,
    why_not,
    apply,
)
