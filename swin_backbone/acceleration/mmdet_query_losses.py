"""Losses of mmdet's DINO, of all decoder layers together.

The stock head goes through thirteen groups of queries, their images one by one: each matching waits
for the device, each group asks it how many boxes count, and losses of all queries' boxes are
computed to be multiplied by zero for those without an object. Here costs of all layers come to the
host once, by mmdet's own classes of costs, and losses of boxes are those of queries that have an
object: the same losses but for roundings. Under autocast, costs, boxes and losses are float32,
where mmdet rounds boxes and sizes of images to 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..model.plain_modules import is_bare
from ..ops.host_copies import copied_to
from .mmdet_internals import EPS, QUERY_LOSSES
from .mmdet_matching import matched, why_not_matched
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods

#: Of each query on its own, whatever others there are.
COSTS = ("FocalLossCost", "ClassificationCost", "BBoxL1Cost", "IoUCost")
#: By the name of each loss, its classes: sums over queries.
LOSSES = {
    "loss_cls": ("FocalLoss",),
    "loss_bbox": ("L1Loss", "SmoothL1Loss"),
    "loss_iou": ("GIoULoss", "DIoULoss", "CIoULoss", "IoULoss"),
}


def stock_head() -> type | None:
    return imported("mmdet.models.dense_heads.dino_head", "DINOHead")


def finds(module: nn.Module) -> bool:
    """Whether a module is such a head, in training or made for it."""
    return is_of(module, stock_head()) and hasattr(module, "assigner")


def why_not(head: nn.Module) -> str | None:
    reason = own_methods(head, QUERY_LOSSES, stock_head())
    if reason is not None:
        return reason
    for name, kinds in LOSSES.items():
        loss = getattr(head, name)
        if type(loss) not in [imported("mmdet.models.losses", kind) for kind in kinds]:
            return f"its {name} is {type(loss).__name__}, and none of {', '.join(kinds)}"
        if loss.reduction != "mean":
            return f"its {name} is a {loss.reduction}, and no mean"
    reason = why_not_matched(head.assigner, COSTS)
    if reason is None and any(
        getattr(cost, "binary_input", False) for cost in head.assigner.match_costs
    ):
        return "its costs are of masks"
    return reason


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"loss_by_feat": loss_by_feat})


class Queries(NamedTuple):
    """Queries of L layers: scores (L, B, Q, classes) and boxes (L, B, Q, 4), as (cx, cy, w, h)."""

    scores: Tensor
    boxes: Tensor


class Objects(NamedTuple):
    """Those of a batch, one after the other.

    Attributes:
        counts: of each image.
        labels: (N,).
        boxes: (N, 4), as (cx, cy, w, h), each in [0, 1].
        sizes: (N, 4): of its image, columns, rows, columns and rows.
    """

    counts: list[int]
    labels: Tensor
    boxes: Tensor
    sizes: Tensor


class Pairs(NamedTuple):
    """Queries with an object, of L layers.

    Attributes:
        queries: (L, N), numbered through a batch.
        objects: (L, N), likewise.
        without: how many queries of a layer count as having none.
    """

    queries: Tensor
    objects: Tensor
    without: int

    @property
    def number(self) -> int:
        """How many queries of a layer have one."""
        return self.queries.shape[1]


def loss_by_feat(
    head: nn.Module,
    all_layers_cls_scores: Tensor,
    all_layers_bbox_preds: Tensor,
    enc_cls_scores: Tensor | None,
    enc_bbox_preds: Tensor | None,
    batch_gt_instances: Sequence,
    batch_img_metas: Sequence[dict],
    dn_meta: dict,
    batch_gt_instances_ignore=None,
) -> dict[str, Tensor]:
    """``DINOHead.loss_by_feat``.

    Args:
        head: the head.
        all_layers_cls_scores: (L, B, D + Q, classes), of D queries of noised objects first.
        all_layers_bbox_preds: (L, B, D + Q, 4).
        enc_cls_scores: (B, Q', classes): of the encoder's proposals.
        enc_bbox_preds: (B, Q', 4).
        batch_gt_instances: ``labels`` (G,) and ``bboxes`` (G, 4) of each image.
        batch_img_metas: with ``img_shape``.
        dn_meta: how many noised queries there are, and in how many groups.
        batch_gt_instances_ignore: must be ``None``.
    """
    if _is_unusual(head, batch_gt_instances) or batch_gt_instances_ignore is not None:
        return type(head).loss_by_feat(
            head, all_layers_cls_scores, all_layers_bbox_preds, enc_cls_scores, enc_bbox_preds,
            batch_gt_instances, batch_img_metas, dn_meta, batch_gt_instances_ignore,
        )  # fmt: skip
    with torch.autocast(all_layers_cls_scores.device.type, enabled=False):
        scores, boxes = _precise(all_layers_cls_scores), _precise(all_layers_bbox_preds)
        noised = dn_meta["num_denoising_queries"]
        plain = [Queries(scores[:, :, noised:], boxes[:, :, noised:])]
        if enc_cls_scores is not None:
            encoder = Queries(_precise(enc_cls_scores)[None], _precise(enc_bbox_preds)[None])
            plain = _together(plain[0], encoder)
        objects = _objects(batch_gt_instances, batch_img_metas, boxes)
        pairs = [_matched(head, one, batch_gt_instances, batch_img_metas) for one in plain]
        pairs.append(_noised_pairs(objects.counts, dn_meta, boxes))
        groups = [*plain, Queries(scores[:, :, :noised], boxes[:, :, :noised])]
        losses = _losses(head, groups, pairs, objects)
    return _by_name(losses, len(scores), enc_cls_scores is not None)


def _is_unusual(head: nn.Module, objects: Sequence) -> bool:
    """Whether somebody watches the losses, or boxes are of a class of mmdet's own. Of several
    processes, all find the same, and do not wait for each other in vain."""
    watched = not all(is_bare(getattr(head, name), type(getattr(head, name))) for name in LOSSES)
    return watched or not all(isinstance(one.bboxes, Tensor) for one in objects)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _together(decoder: Queries, encoder: Queries) -> list[Queries]:
    """As one group, if images have as many queries in both."""
    if decoder.scores.shape[1:] != encoder.scores.shape[1:]:
        return [decoder, encoder]
    return [Queries(*(torch.cat(both) for both in zip(decoder, encoder, strict=True)))]


def _objects(instances: Sequence, metas: Sequence[dict], like: Tensor) -> Objects:
    counts = [len(one.labels) for one in instances]
    sizes = _on_device([_size(meta) for meta in metas], like)
    sizes = torch.cat([one.expand(n, 4) for one, n in zip(sizes, counts, strict=True)])
    to_centers = imported("mmdet.structures.bbox", "bbox_xyxy_to_cxcywh")
    boxes = to_centers(torch.cat([one.bboxes for one in instances]).to(like.dtype) / sizes)
    return Objects(counts, torch.cat([one.labels for one in instances]), boxes, sizes)


def _size(meta: dict) -> list[float]:
    rows, columns = meta["img_shape"][:2]
    return [columns, rows, columns, rows]


def _on_device(numbers: object, like: Tensor) -> Tensor:
    """Numbers that the host knows, copied without waiting for the device."""
    return copied_to(torch.as_tensor(numbers, dtype=like.dtype, device="cpu"), like.device)


@torch.no_grad()
def _matched(
    head: nn.Module, queries: Queries, instances: Sequence, metas: Sequence[dict]
) -> Pairs:
    """Queries matched with objects, of all layers and images with one wait."""
    layers, images, number = queries.scores.shape[:3]
    costs = [
        _cost(head, queries.scores[:, image], queries.boxes[:, image], one, metas[image])
        for image, one in enumerate(instances)
        if len(one.labels)
    ]
    found, first = iter(matched(costs)), 0
    table = [torch.empty(2, layers, 0, dtype=torch.long, device="cpu")]
    for image, one in enumerate(instances):
        if len(one.labels):
            rows, columns = map(torch.from_numpy, next(found))
            table.append(torch.stack([rows + image * number, columns + first]))
            first += len(one.labels)
    table = copied_to(torch.cat(table, 2), queries.scores.device)
    return Pairs(*table, images * number - table.shape[2])


def _cost(head: nn.Module, scores: Tensor, boxes: Tensor, objects, meta: dict) -> Tensor:
    """(L, Q, G) of an image: scores (L, Q, classes) and boxes (L, Q, 4) against its objects."""
    to_corners = imported("mmdet.structures.bbox", "bbox_cxcywh_to_xyxy")
    instances = imported("mmengine.structures", "InstanceData")
    size = _on_device(_size(meta), boxes)
    queries = instances(scores=scores.flatten(0, 1), bboxes=to_corners(boxes.flatten(0, 1)) * size)
    objects = instances(labels=objects.labels, bboxes=objects.bboxes.to(boxes.dtype))
    costs = [cost(queries, objects, meta) for cost in head.assigner.match_costs]
    return torch.stack(costs).sum(0).view(*scores.shape[:2], -1)


def _noised_pairs(counts: Sequence[int], dn_meta: dict, boxes: Tensor) -> Pairs:
    """Of queries made of objects with little noise; those of much noise count as having none."""
    number, groups = dn_meta["num_denoising_queries"], dn_meta["num_denoising_groups"]
    group = torch.arange(groups, device="cpu")[:, None] * (number // groups)
    queries, objects, first = [], [], 0
    for image, count in enumerate(counts):
        own = torch.arange(count, device="cpu")
        queries.append((image * number + group + own).flatten())
        objects.append((first + own).repeat(groups))
        first += count
    table = copied_to(torch.stack([torch.cat(queries), torch.cat(objects)]), boxes.device)
    return Pairs(*table[:, None].expand(-1, len(boxes), -1), table.shape[1])


def _losses(
    head: nn.Module, groups: Sequence[Queries], pairs: Sequence[Pairs], objects: Objects
) -> list[list[Tensor]]:
    """Of each layer of each group, losses of classes, boxes and overlaps."""
    found = []
    factors = _factors(head, pairs, groups[0].scores.device)
    for queries, own, (of_classes, of_boxes) in zip(groups, pairs, factors, strict=True):
        classes = _class_losses(head, queries.scores, own, objects.labels, of_classes)
        at = own.queries[..., None].expand(-1, -1, 4)
        boxes = queries.boxes.flatten(1, 2).gather(1, at)
        both = _box_losses(head, boxes, objects.boxes[own.objects], objects.sizes[own.objects])
        found.append([classes, *(list(one / (of_boxes + EPS)) for one in both)])
    return [list(layer) for group in found for layer in zip(*group, strict=True)]


def _factors(head: nn.Module, pairs: Sequence[Pairs], device: torch.device) -> list[tuple]:
    """What losses of classes, and those of boxes, are divided by: means over all processes, which
    are asked once."""
    numbers = [(_counted(head, one), one.number) for one in pairs]
    if imported("mmengine.dist", "get_world_size")() == 1:
        return [(max(classes, 1), max(boxes, 1)) for classes, boxes in numbers]
    reduced = imported("mmdet.utils", "reduce_mean")(
        copied_to(torch.tensor(numbers, dtype=torch.float32, device="cpu"), device)
    ).clamp(min=1)
    means = [tuple(one) for one in reduced]
    if head.sync_cls_avg_factor:
        return means
    own = [max(classes, 1) for classes, _ in numbers]
    return [(classes, boxes) for classes, (_, boxes) in zip(own, means, strict=True)]


def _counted(head: nn.Module, pairs: Pairs) -> float:
    """How many queries of a layer count in losses of classes, those without an object in part."""
    return pairs.number + pairs.without * head.bg_cls_weight


def _class_losses(
    head: nn.Module, scores: Tensor, pairs: Pairs, labels: Tensor, factor
) -> list[Tensor]:
    """Of each layer."""
    scores = scores.flatten(1, 2)
    if not scores.shape[1]:  # there is no object to add noise to
        return [scores.new_zeros(1)] * len(scores)
    classes = labels.new_full(scores.shape[:2], head.num_classes)
    classes = classes.scatter(1, pairs.queries, labels[pairs.objects])
    losses = head.loss_cls(scores.flatten(0, 1), classes.flatten(), reduction_override="none").view(
        len(scores), -1
    )
    losses = losses.sum(1) / (factor + EPS)
    # The stock head has the factor in a tensor of one number, and so the loss, unless it is 1.
    synchronised = head.sync_cls_avg_factor and _counted(head, pairs) >= 1
    return list(losses[:, None] if synchronised else losses)


def _box_losses(
    head: nn.Module, boxes: Tensor, targets: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums over each layer's boxes (L, N, 4), in [0, 1], of images of ``sizes``: (L,) each."""
    if not boxes.shape[1]:
        nothing = boxes.sum((1, 2))
        return nothing, nothing
    to_corners = imported("mmdet.structures.bbox", "bbox_cxcywh_to_xyxy")
    layers, boxes, targets, sizes = (
        len(boxes),
        *(one.flatten(0, 1) for one in (boxes, targets, sizes)),
    )
    distances = head.loss_bbox(boxes, targets, reduction_override="none")
    overlaps = head.loss_iou(
        to_corners(boxes) * sizes, to_corners(targets) * sizes, reduction_override="none"
    )
    return distances.view(layers, -1).sum(1), overlaps.view(layers, -1).sum(1)


def _by_name(losses: Sequence[list[Tensor]], layers: int, encoder: bool) -> dict[str, Tensor]:
    """In the order of the stock head."""
    decoder, proposals, noised = (
        losses[:layers], losses[layers : layers + encoder], losses[layers + encoder :],
    )  # fmt: skip
    found = _of_layers(decoder, "")
    for layer in proposals:
        found |= {f"enc_{name}": value for name, value in zip(LOSSES, layer, strict=True)}
    return found | _of_layers(noised, "dn_")


def _of_layers(layers: Sequence[list[Tensor]], prefix: str) -> dict[str, Tensor]:
    names = [prefix + name for name in LOSSES]
    found = dict(zip(names, layers[-1], strict=True))
    for number, layer in enumerate(layers[:-1]):
        found |= {f"d{number}.{name}": v for name, v in zip(names, layer, strict=True)}
    return found


REWRITE = Rewrite(
    "query_losses",
    "losses of all layers together, matched with one wait",
    finds,
    why_not,
    apply,
)
