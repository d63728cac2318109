"""Losses of mmdet's region proposal network from the anchors that are drawn.

Stock heads lay out labels, weights and boxes for all anchors of an image, 268,000 at 800x1344, ask
the device which of them lie within the image, and compute losses for all, level by level, of which
256 count. Here the scores and boxes of those that were drawn are picked out first: the same sums.
Where some anchors do not count (those of padding, or beyond the image's border), the device is
asked which once for each size of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .mmdet_assigned_anchors import flat_predictions, laid_out, none_counts
from .mmdet_internals import LOSS_METHODS
from .mmdet_sampling import sample_all
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods

#: Losses that are sums over anchors, each with its weight.
LOSSES = {"loss_cls": ("CrossEntropyLoss",), "loss_bbox": ("L1Loss", "SmoothL1Loss")}


def _stock() -> type | None:
    return imported("mmdet.models.dense_heads.rpn_head", "RPNHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(head: nn.Module) -> str | None:
    reason = own_methods(head, LOSS_METHODS, _stock())
    if reason is not None:
        return reason
    if head.reg_decoded_bbox or head.cls_out_channels != 1:
        return "its losses are of decoded boxes, or of more than one class"
    for name, kinds in LOSSES.items():
        loss = getattr(head, name)
        stock = [imported("mmdet.models.losses", kind) for kind in kinds]
        if type(loss) not in stock or loss.reduction != "mean":
            return f"its {name} is {type(loss).__name__}, and no mean of {' or '.join(kinds)}"
    if head.loss_cls.ignore_index in (0, 1):
        return "its loss_cls ignores anchors with an object, or those without"
    return None


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
    """``RPNHead.loss_by_feat``; losses of all levels together."""
    levels, counted = laid_out(head, cls_scores, batch_img_metas)
    if none_counts(counted):
        return type(head).loss_by_feat(
            head, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas,
            batch_gt_instances_ignore,
        )  # fmt: skip
    ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
    drawn = _draw(head, torch.cat(levels), counted, batch_gt_instances, ignored)
    total = sum(one.result.avg_factor for one in drawn)
    return {
        "loss_rpn_cls": [
            _class_loss(head, flat_predictions(cls_scores, 1).flatten(0, 1), drawn, total)
        ],
        "loss_rpn_bbox": [
            _box_loss(head, flat_predictions(bbox_preds, 4).flatten(0, 1), drawn, total)
        ],
    }


@dataclass
class _Drawn:
    """Anchors that were drawn of an image.

    Attributes:
        result: mmdet's, of the anchors that count.
        with_object: places of those with an object among the anchors of all images.
        without: of those without.
    """

    result: object
    with_object: Tensor
    without: Tensor


def _draw(
    head: nn.Module, anchors: Tensor, counted: Sequence, objects: Sequence, ignored: Sequence
) -> list[_Drawn]:
    priors = [
        type(one)(priors=anchors if places is None else anchors[places])
        for one, places in zip(objects, counted, strict=True)
    ]
    images = zip(priors, objects, ignored, strict=True)
    assigned = [head.assigner.assign(*image) for image in images]
    drawn = []
    for image, result in enumerate(sample_all(head.sampler, assigned, priors, objects)):
        found = [result.pos_inds, result.neg_inds]
        if counted[image] is not None:
            found = [counted[image][one] for one in found]
        drawn.append(_Drawn(result, *(one + image * len(anchors) for one in found)))
    return drawn


def _class_loss(head: nn.Module, scores: Tensor, drawn: Sequence[_Drawn], total: int) -> Tensor:
    places, labels = [], []
    for one in drawn:
        places += [one.with_object, one.without]
        labels += [one.result.pos_gt_labels, torch.full_like(one.without, head.num_classes)]
    labels = torch.cat(labels)
    weights = torch.ones_like(labels, dtype=torch.float32)
    if head.train_cfg["pos_weight"] > 0:
        weights = torch.where(labels < head.num_classes, head.train_cfg["pos_weight"], weights)
    chosen = scores.index_select(0, torch.cat(places))
    # Labels of one class as they are compared: mmdet asks the device which they are.
    is_object = (labels == 0).to(weights)
    return head.loss_cls(chosen, is_object[:, None], weights[:, None], avg_factor=total)


def _box_loss(head: nn.Module, boxes: Tensor, drawn: Sequence[_Drawn], total: int) -> Tensor:
    targets = head.bbox_coder.encode(
        torch.cat([one.result.pos_priors for one in drawn]),
        torch.cat([one.result.pos_gt_bboxes for one in drawn]),
    )
    chosen = boxes.index_select(0, torch.cat([one.with_object for one in drawn]))
    chosen = chosen.to(torch.promote_types(chosen.dtype, targets.dtype))
    # Without weights, which are one: mmdet asks the device whether any is more than zero.
    return head.loss_bbox(chosen, targets, avg_factor=total)


REWRITE = Rewrite(
    "rpn_losses",
    "losses of the anchors that are drawn, all levels at once",
    finds,
    why_not,
    apply,
)
