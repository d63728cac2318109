"""Boxes that a stage of a cascade gives to the next, refined for all images at once.

mmdet looks for each image's boxes among those of the batch, and leaves out those that were objects
themselves: two or three waits for the device in each image. Where a cascade computes its losses,
boxes lie image by image, as many as were drawn, and one wait tells how many of them stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from .mmdet_internals import BOXES_OF_STAGES, REFINED_BOXES
from .mmdet_sampling import candidates_by_kind
from .rewrite import Rewrite, Undo, all_of, imported, is_of, own_methods, replace_methods

#: Heads whose regions lie image by image, in the order in which they were drawn.
_in_order: ContextVar[tuple[nn.Module, ...]] = ContextVar("in_order", default=())


def _stock() -> type | None:
    return imported("mmdet.models.roi_heads.cascade_roi_head", "CascadeRoIHead")


def _stock_of_boxes() -> type | None:
    return imported("mmdet.models.roi_heads.bbox_heads.bbox_head", "BBoxHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(head: nn.Module) -> str | None:
    reasons = [own_methods(head, BOXES_OF_STAGES, _stock())]
    if not head.with_bbox:
        return "it has no heads of boxes"
    for one in head.bbox_head:
        if not is_of(one, _stock_of_boxes()):
            return f"a head of its boxes is {type(one).__name__}, and not mmdet's BBoxHead"
        reasons.append(own_methods(one, REFINED_BOXES, _stock_of_boxes()))
        if one.custom_activation:
            return "its scores have an activation of their own"
    return next((reason for reason in reasons if reason is not None), None)


def apply(head: nn.Module) -> Undo:
    undos = [replace_methods(one, {"refine_bboxes": refine_bboxes}) for one in head.bbox_head]
    undos.append(replace_methods(head, {"loss": loss}))
    return all_of(undos)


def loss(head: nn.Module, *args, **kwargs) -> dict:
    """``CascadeRoIHead.loss``, whose regions lie image by image."""
    with _drawn_in_order(tuple(head.bbox_head)):
        return type(head).loss(head, *args, **kwargs)


@contextmanager
def _drawn_in_order(heads: tuple[nn.Module, ...]) -> Iterator[None]:
    token = _in_order.set(heads)
    try:
        yield
    finally:
        _in_order.reset(token)


def refine_bboxes(
    head: nn.Module, sampling_results: Sequence, bbox_results: dict, batch_img_metas: Sequence
):
    """``BBoxHead.refine_bboxes``."""
    labels, scores = bbox_results["bbox_targets"][0], bbox_results["cls_score"]
    if not _is_usual(head, sampling_results, labels, scores):
        return type(head).refine_bboxes(head, sampling_results, bbox_results, batch_img_metas)
    found = scores[:, : head.num_classes].argmax(1)
    labels = torch.where(labels == head.num_classes, found, labels)
    counts = [_count(one) for one in sampling_results]
    parts = [x.split(counts) for x in (bbox_results["rois"], labels, bbox_results["bbox_pred"])]
    stay = candidates_by_kind([_stays(one) for one in sampling_results])
    kind = imported("mmengine.structures", "InstanceData")
    refined = []
    for rois, label, moves, meta, (places, _) in zip(*parts, batch_img_metas, stay, strict=True):
        chosen = rois[places, 1:], label[places], moves[places]
        refined.append(kind(bboxes=head.regress_by_class(*chosen, meta)))
    return refined


def _is_usual(head: nn.Module, results: Sequence, labels: Tensor, scores: Tensor) -> bool:
    drawn = imported("mmdet.models.task_modules.samplers", "SamplingResult")
    return (
        any(one is head for one in _in_order.get())
        and all(type(one) is drawn for one in results)
        and sum(map(_count, results)) == len(labels) == len(scores) > 0
        and scores.shape[-1] in (head.num_classes, head.num_classes + 1)
    )


def _count(result) -> int:
    return len(result.pos_priors) + len(result.neg_priors)


def _stays(result) -> Tensor:
    """(N,): 1 for boxes that stay, 0 for objects that were drawn as boxes. Those come first."""
    flags = result.pos_is_gt.long()
    return torch.cat([1 - flags, flags.new_ones(_count(result) - len(flags))])


REWRITE = Rewrite(
    "refined_boxes",
    "boxes of the next stage with one wait for the GPU",
    finds,
    why_not,
    apply,
)
