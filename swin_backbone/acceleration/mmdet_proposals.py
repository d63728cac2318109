"""Proposals of mmdet's region proposal network, of all images of a batch together.

Stock heads choose and decode the best anchors image by image and level by level, and under autocast
in 16 bits: anchors, and the boxes made of them, are then whole multiples of 8 pixels at 1,344 in
bfloat16. Here boxes are float32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mmdet_internals import PROPOSALS, suppressed
from .mmdet_suppression import go_together, suppressed_together
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods


def _stock() -> type | None:
    return imported("mmdet.models.dense_heads.rpn_head", "RPNHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(head: nn.Module) -> str | None:
    reason = own_methods(head, PROPOSALS, _stock())
    if reason is not None:
        return reason
    coder = imported("mmdet.models.task_modules.coders", "DeltaXYWHBBoxCoder")
    if type(head.bbox_coder) is not coder:
        return f"its boxes are coded by {type(head.bbox_coder).__name__}"
    if not head.use_sigmoid_cls or head.cls_out_channels != 1:
        return "its scores are not those of one class"
    return None


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"predict_by_feat": predict_by_feat})


def predict_by_feat(
    head: nn.Module,
    cls_scores: Sequence[Tensor],
    bbox_preds: Sequence[Tensor],
    score_factors: Sequence[Tensor] | None = None,
    batch_img_metas: Sequence[dict] | None = None,
    cfg=None,
    rescale: bool = False,
    with_nms: bool = True,
) -> list:
    """``RPNHead.predict_by_feat``."""
    if score_factors is not None or torch.jit.is_tracing():
        return type(head).predict_by_feat(
            head, cls_scores, bbox_preds, score_factors, batch_img_metas, cfg, rescale, with_nms
        )
    cfg = head.test_cfg if cfg is None else cfg
    with torch.no_grad():
        coded, scores, levels = _best(head, cls_scores, bbox_preds, cfg.get("nms_pre", -1))
        boxes = _decoded(head.bbox_coder, *coded, [meta["img_shape"] for meta in batch_img_metas])
        if isinstance(boxes, Tensor) and go_together(boxes, cfg, rescale):
            return suppressed_together(boxes, scores, levels, cfg)
        kind = imported("mmengine.structures", "InstanceData")
        return [
            suppressed(
                head,
                kind(bboxes=boxes[image], scores=scores[image], level_ids=levels),
                copy.deepcopy(cfg),
                rescale,
                meta,
            )
            for image, meta in enumerate(batch_img_metas)
        ]


def _decoded(coder, priors: Tensor, deltas: Tensor, shapes: Sequence) -> Tensor | list:
    """Boxes (B, N, 4), or of a type of mmdet's for each image, within images of these shapes."""
    if len(set(map(tuple, shapes))) == 1 and not coder.use_box_type:
        flat = coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1), max_shape=shapes[0])
        return flat.view_as(priors)
    boxes = [coder.decode(*one) for one in zip(priors, deltas, shapes, strict=True)]
    return boxes if coder.use_box_type else torch.stack(boxes)


def _best(
    head: nn.Module, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], most: int
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Anchors and predictions (B, N, 4), scores (B, N), and levels (N,), of the best anchors."""
    sizes, first = [x.shape[-2:] for x in cls_scores], cls_scores[0]
    dtype = torch.promote_types(first.dtype, torch.float32)
    priors = head.prior_generator.grid_priors(sizes, dtype=dtype, device=first.device)
    parts = []
    for level, (score, box, prior) in enumerate(zip(cls_scores, bbox_preds, priors, strict=True)):
        score = score.permute(0, 2, 3, 1).flatten(1).to(dtype).sigmoid()
        box = box.permute(0, 2, 3, 1).reshape(len(box), -1, 4)
        prior = prior.expand(len(box), -1, -1)
        if 0 < most < score.shape[1]:
            score, place = score.sort(dim=1, descending=True, stable=True)
            score, place = score[:, :most], place[:, :most, None].expand(-1, -1, 4)
            box, prior = box.gather(1, place), prior.gather(1, place)
        parts.append((prior, box.to(dtype), score, score.new_full(score.shape[1:], level).long()))
    prior, box, score, level = zip(*parts, strict=True)
    return (torch.cat(prior, 1), torch.cat(box, 1)), torch.cat(score, 1), torch.cat(level)


REWRITE = Rewrite("proposals", "proposals of a batch, in float32", finds, why_not, apply)
