"""Losses of mmdet's and mmseg's Mask2Former, of all decoder layers together.

Stock heads go through ten layers and their images one by one: each matching waits for the device,
each layer copies weights of classes to it, and masks of the image's size are gathered once more.
Here points are drawn in the same order, so that the same seed gives the same points, and all else
is done once: the same losses but for roundings. Under autocast, costs and masks at points are
float32, where mmdet multiplies in 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..model.plain_modules import is_bare
from .mmdet_internals import EPS, MASK_LOSSES
from .mmdet_mask_matching import matched_queries, sample, why_not_matched
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods

#: Candidates of uncertain points that are looked at together.
AT_ONCE = 2**24
#: By the name of each loss, its class.
LOSSES = {"loss_cls": "CrossEntropyLoss", "loss_mask": "CrossEntropyLoss", "loss_dice": "DiceLoss"}
SAMPLERS = "mmdet.models.task_modules.samplers.mask_pseudo_sampler"


def stock_head() -> type | None:
    """The class of mmdet; mmseg's inherits from it."""
    return imported("mmdet.models.dense_heads.mask2former_head", "Mask2FormerHead")


def finds(module: nn.Module) -> bool:
    """Whether a module is such a head, in training or made for it."""
    return is_of(module, stock_head()) and hasattr(module, "assigner")


def why_not(head: nn.Module) -> str | None:
    reason = own_methods(head, MASK_LOSSES, stock_head())
    if reason is not None:
        return reason
    if type(head.sampler) is not imported(SAMPLERS, "MaskPseudoSampler"):
        return f"its sampler is a {type(head.sampler).__name__}"
    for name, kind in LOSSES.items():
        loss = getattr(head, name)
        if type(loss) is not imported("mmdet.models.losses", kind) or loss.reduction != "mean":
            return f"its {name} is {type(loss).__name__}, and no mean of {kind}"
    if head.loss_cls.use_sigmoid or head.loss_cls.use_mask or not head.loss_mask.use_sigmoid:
        return "its losses take sigmoid and softmax the other way round"
    if head.loss_mask.class_weight is not None or head.loss_cls.ignore_index is not None:
        return "its masks' loss has weights, or its classes' one ignores some"
    if not (head.loss_dice.activate and head.loss_dice.use_sigmoid):
        return "its loss_dice takes no sigmoid"
    return why_not_matched(head.assigner)


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"loss_by_feat": loss_by_feat})


def loss_by_feat(
    head: nn.Module,
    all_cls_scores: Sequence[Tensor],
    all_mask_preds: Sequence[Tensor],
    batch_gt_instances: Sequence,
    batch_img_metas: Sequence[dict],
) -> dict[str, Tensor]:
    """``MaskFormerHead.loss_by_feat``, as Mask2Former has it.

    Args:
        head: the head.
        all_cls_scores: (B, Q, classes + 1) of each of L layers.
        all_mask_preds: (B, Q, h, w) of each layer.
        batch_gt_instances: ``labels`` (G,) and ``masks`` (G, H, W) of each image.
        batch_img_metas: not needed.
    """
    counts = [len(one.labels) for one in batch_gt_instances]
    watched = not all(is_bare(getattr(head, name), type(getattr(head, name))) for name in LOSSES)
    if watched or not sum(counts) or max(counts) > all_mask_preds[0].shape[1]:
        return type(head).loss_by_feat(
            head, all_cls_scores, all_mask_preds, batch_gt_instances, batch_img_metas
        )
    device = all_mask_preds[0].device
    drawn = _draw(head, len(all_mask_preds), counts, device)
    labels = [one.labels.long() for one in batch_gt_instances]
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        dtype = torch.promote_types(all_mask_preds[0].dtype, torch.float32)
        truth = [one.masks.to(dtype) for one in batch_gt_instances]
        queries = matched_queries(
            head, all_cls_scores, all_mask_preds, labels, truth, drawn.matching
        )
        rows = _rows(queries, all_mask_preds[0].shape[1], device)
    # Each object has a query in every layer, whatever the matches.
    count = torch.full((1,), float(sum(max(n, 1) for n in counts)), device=device)
    count = imported("mmdet.utils", "reduce_mean")(count).clamp(min=1)
    of_masks = _mask_losses(head, all_mask_preds, rows, drawn, torch.cat(truth), count)
    of_classes = _class_losses(head, all_cls_scores, rows.by_object, torch.cat(labels))
    layers = zip(of_classes, *of_masks, strict=True)
    *others, last = (dict(zip(LOSSES, values, strict=True)) for values in layers)
    return last | {f"d{i}.{k}": v for i, one in enumerate(others) for k, v in one.items()}


class Drawn(NamedTuple):
    """Points in [0, 1]: (L, B, P, 2) to match at, and for the losses of N objects (L, N, S, 2), of
    which the uncertain ones are taken, and (L, N, R, 2), which all are."""

    matching: Tensor
    candidates: Tensor
    others: Tensor


def _draw(head: nn.Module, layers: int, counts: Sequence[int], device: torch.device) -> Drawn:
    """The points that mmdet draws, in its order."""
    points, objects = head.num_points, sum(counts)
    uncertain = int(head.importance_sample_ratio * points)
    parts: list[list[Tensor]] = [[], [], []]
    for _ in range(layers):
        drawn = [torch.rand((1, points, 2), device=device) for _ in counts]
        parts[0].append(torch.cat(drawn))
        parts[1].append(torch.rand(objects, int(points * head.oversample_ratio), 2, device=device))
        parts[2].append(torch.rand(objects, points - uncertain, 2, device=device))
    return Drawn(*map(torch.stack, parts))


class Rows(NamedTuple):
    """Queries of N objects in L layers, numbered through a batch; all (L, N).

    Attributes:
        by_object: the query of each object.
        in_order: the same, sorted, as mmdet goes through them.
        place: where in that order an object's query is.
        objects: which object each place is of.
    """

    by_object: Tensor
    in_order: Tensor
    place: Tensor
    objects: Tensor


def _rows(queries: Sequence, most: int, device: torch.device) -> Rows:
    import numpy as np

    by_object = np.concatenate([own + image * most for image, own in enumerate(queries)], axis=1)
    objects = by_object.argsort(axis=1)
    in_order = np.take_along_axis(by_object, objects, 1)
    table = np.stack([by_object, in_order, objects.argsort(axis=1), objects])
    return Rows(*torch.from_numpy(table).to(device))


def _mask_losses(
    head: nn.Module,
    masks: Sequence[Tensor],
    rows: Rows,
    drawn: Drawn,
    truth: Tensor,
    count: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Of each layer, cross entropy and Dice of its masks at points, of (1,) each."""
    layers, objects = rows.in_order.shape
    chosen = [
        one.flatten(0, 1).index_select(0, own)
        for one, own in zip(masks, rows.in_order, strict=True)
    ]
    with torch.no_grad(), torch.autocast(truth.device.type, enabled=False):
        points = torch.cat([_uncertain(head, *one) for one in _groups(chosen, drawn.candidates)])
        points = torch.cat([points, drawn.others.flatten(0, 1)], 1)
        targets = _targets(truth, points.unflatten(0, (layers, objects)), rows)
    values = sample(torch.cat(chosen)[:, None].to(truth.dtype), points.to(truth.dtype))[:, 0]
    cross = functional.binary_cross_entropy_with_logits(values, targets, reduction="none")
    cross = cross.view(layers, -1).sum(1, keepdim=True) / (count * head.num_points + EPS)
    dice = _dice(values.sigmoid(), targets, head.loss_dice)
    dice = dice.view(layers, -1).sum(1, keepdim=True) / (count + EPS)
    weights = head.loss_mask.loss_weight, head.loss_dice.loss_weight
    return list(cross * weights[0]), list(dice * weights[1])


def _groups(chosen: Sequence[Tensor], candidates: Tensor):
    """Masks and candidates of some layers at a time, so that memory stays bounded."""
    size = max(1, AT_ONCE // max(1, candidates[0, ..., 0].numel()))
    for start in range(0, len(chosen), size):
        some = slice(start, start + size)
        yield torch.cat(chosen[some]), candidates[some].flatten(0, 1)


def _uncertain(head: nn.Module, masks: Tensor, candidates: Tensor) -> Tensor:
    """(N, points, 2): the candidates (N, S, 2) at which masks (N, h, w) are nearest to zero."""
    dtype = torch.promote_types(masks.dtype, torch.float32)
    values = sample(masks[:, None].to(dtype), candidates.to(dtype))[:, 0]
    most = int(head.importance_sample_ratio * head.num_points)
    place = (-values.abs()).topk(most, dim=1).indices
    return candidates.gather(1, place[..., None].expand(-1, -1, 2))


def _targets(truth: Tensor, points: Tensor, rows: Rows) -> Tensor:
    """(L * N, P): of objects (N, H, W) at points (L, N, P, 2), both in the order of queries.

    Points go to the objects, and not the objects' maps to the points, which are fewer numbers.
    """
    layers, objects, count = points.shape[:3]
    layer = torch.arange(layers, device=points.device)[:, None]
    of_objects = points[layer, rows.place].transpose(0, 1).flatten(1, 2)
    found = sample(truth[:, None], of_objects.to(truth.dtype)).view(objects, layers, count)
    return found.transpose(0, 1)[layer, rows.objects].flatten(0, 1)


def _dice(values: Tensor, targets: Tensor, loss: nn.Module) -> Tensor:
    """(N,) losses, as ``mmdet.models.losses.dice_loss`` defines them."""
    overlap = (values * targets).sum(1)
    if loss.naive_dice:
        return 1 - (2 * overlap + loss.eps) / (values.sum(1) + targets.sum(1) + loss.eps)
    sizes = values.square().sum(1) + targets.square().sum(1) + 2 * loss.eps
    return 1 - 2 * overlap / sizes


def _class_losses(
    head: nn.Module, scores: Sequence[Tensor], queries: Tensor, labels: Tensor
) -> Tensor:
    """(L,) losses of classes, from scores (B, Q, classes + 1) of each layer."""
    scores = torch.stack(list(scores)).flatten(1, 2)
    classes = labels.new_full(scores.shape[:2], head.num_classes)
    classes.scatter_(1, queries, labels.expand_as(queries))
    loss, own = head.loss_cls, _weights(head, head.class_weight, scores)
    weight = None if loss.class_weight is None else _weights(head, loss.class_weight, scores)
    with torch.autocast(scores.device.type, enabled=False):
        dtype = own.dtype
        losses = functional.cross_entropy(
            scores.flatten(0, 1).to(dtype), classes.flatten(), weight, reduction="none"
        ).view(classes.shape)
    return loss.loss_weight * losses.sum(1) / (own[classes].sum(1) + EPS)


def _weights(head: nn.Module, weights: Sequence[float], scores: Tensor) -> Tensor:
    """Weights of classes, at least float32, moved to the scores' device once."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    kept, key = head.__dict__.setdefault("_kept_weights", {}), (dtype, scores.device, *weights)
    if key not in kept:
        kept[key] = torch.tensor(weights, dtype=dtype, device=scores.device)
    return kept[key]


REWRITE = Rewrite(
    "mask_losses", "losses of all layers together, matched with one wait", finds, why_not, apply
)
