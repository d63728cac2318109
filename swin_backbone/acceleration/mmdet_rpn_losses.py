"""Losses of mmdet's region proposal network from the anchors that are drawn.

Stock heads lay out labels, weights and boxes for all anchors of an image, 268,000 at 800x1344, ask
the device which of them lie within the image, and compute losses for all, level by level, of which
256 count. Here the scores and boxes of those that were drawn are picked out first: the same sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mmdet_internals import LOSS_METHODS
from .mmdet_sampling import sample_all
from .rewrite import Rewrite, Undo, imported, is_of, own_method, replace_methods

#: Losses that are sums over anchors, each with its weight.
LOSSES = {"loss_cls": ("CrossEntropyLoss",), "loss_bbox": ("L1Loss", "SmoothL1Loss")}


def _stock() -> type | None:
    return imported("mmdet.models.dense_heads.rpn_head", "RPNHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(head: nn.Module) -> str | None:
    for name in LOSS_METHODS:
        reason = own_method(head, name, _stock())
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
    sizes = [x.shape[2:] for x in cls_scores]
    if not _all_count(head, sizes, batch_img_metas):
        return type(head).loss_by_feat(
            head, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas,
            batch_gt_instances_ignore,
        )  # fmt: skip
    ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
    anchors = head.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
    anchors = torch.cat(list(anchors))
    drawn = _draw(head, anchors, batch_gt_instances, ignored)
    total = sum(result.avg_factor for result in drawn)
    return {
        "loss_rpn_cls": [_class_loss(head, _flat(cls_scores, 1), drawn, len(anchors), total)],
        "loss_rpn_bbox": [_box_loss(head, _flat(bbox_preds, 4), drawn, len(anchors), total)],
    }


def _all_count(head: nn.Module, sizes: Sequence, metas: Sequence[dict]) -> bool:
    """Whether no anchor is left out for where it lies: anchors of padding are."""
    if head.train_cfg["allowed_border"] >= 0:
        return False
    for meta in metas:
        height, width = meta["pad_shape"][:2]
        for (rows, columns), (across, down) in zip(
            sizes, head.prior_generator.strides, strict=True
        ):
            if math.ceil(height / down) < rows or math.ceil(width / across) < columns:
                return False
    return True


def _draw(head: nn.Module, anchors: Tensor, objects: Sequence, ignored: Sequence) -> list:
    """mmdet's sampling result of each image."""
    priors = [type(one)(priors=anchors) for one in objects]
    images = zip(priors, objects, ignored, strict=True)
    assigned = [head.assigner.assign(*image) for image in images]
    return sample_all(head.sampler, assigned, priors, objects)


def _flat(maps: Sequence[Tensor], channels: int) -> Tensor:
    """(B anchors, channels): predictions image by image, as anchors are numbered."""
    return torch.cat(
        [x.permute(0, 2, 3, 1).reshape(len(x), -1, channels) for x in maps], 1
    ).flatten(0, 1)


def _class_loss(
    head: nn.Module, scores: Tensor, drawn: Sequence, anchors: int, total: int
) -> Tensor:
    places, labels = [], []
    for image, result in enumerate(drawn):
        places += [result.pos_inds + image * anchors, result.neg_inds + image * anchors]
        background = torch.full_like(result.neg_inds, head.num_classes)
        labels += [result.pos_gt_labels, background]
    labels = torch.cat(labels)
    weights = torch.ones_like(labels, dtype=torch.float32)
    if head.train_cfg["pos_weight"] > 0:
        weights = torch.where(labels < head.num_classes, head.train_cfg["pos_weight"], weights)
    chosen = scores.index_select(0, torch.cat(places))
    # Labels of one class as they are compared: mmdet asks the device which they are.
    is_object = (labels == 0).to(weights)
    return head.loss_cls(chosen, is_object[:, None], weights[:, None], avg_factor=total)


def _box_loss(head: nn.Module, boxes: Tensor, drawn: Sequence, anchors: int, total: int) -> Tensor:
    places = torch.cat([result.pos_inds + i * anchors for i, result in enumerate(drawn)])
    targets = head.bbox_coder.encode(
        torch.cat([result.pos_priors for result in drawn]),
        torch.cat([result.pos_gt_bboxes for result in drawn]),
    )
    chosen = boxes.index_select(0, places)
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
