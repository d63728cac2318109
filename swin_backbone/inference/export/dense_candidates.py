"""Boxes from the maps of a head that has anchors, and what both kinds of such heads share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.symbolic_shapes import contiguous
from .detection_ops import NEVER


class Candidates(NamedTuple):
    """Boxes of an image before the overlapping ones go.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 in pixels.
        scores: (N,) from 0 to 1; :data:`NEVER` of those that must not be kept.
        labels: (N,) int64, the class.
        levels: (N,) int64, the map that each comes from.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    levels: Tensor


def pyramid(detector: nn.Module, images: Tensor, divisor: int) -> Sequence[Tensor]:
    """Maps of the neck of (1, 3, H, W) normalised images, padded as mmdet pads them.

    Args:
        detector: with ``backbone`` and ``neck``.
        images: normalised.
        divisor: of which height and width become multiples, with zeros below and to the right.
    """
    height, width = images.shape[2:]
    images = F.pad(images, (0, -width % divisor, 0, -height % divisor))
    # See SegmentorLogits.forward for why the maps are copied.
    maps = tuple(contiguous(features) for features in detector.backbone(images))
    return detector.neck(maps)


def dense_candidates(
    head: nn.Module,
    maps: Sequence[Tensor],
    size: tuple[int, int],
    most: int,
    least_score: float,
    least_side: float,
) -> Candidates:
    """The best candidates of each map, whatever they overlap.

    Args:
        head: an ``AnchorHead`` of mmdet, with scores by the sigmoid.
        maps: of the neck.
        size: height and width of the image, to which boxes are clipped.
        most: candidates of a map; all if negative.
        least_score: what a score must exceed.
        least_side: what width and height of a box must exceed; any if negative.
    """
    classes = head.cls_out_channels
    logits, deltas = head(maps)
    anchors = head.prior_generator.grid_priors(
        [level.shape[2:] for level in logits], device=maps[0].device
    )
    parts = []
    for level, (of_level, delta, priors) in enumerate(zip(logits, deltas, anchors, strict=True)):
        scores = contiguous(of_level[0].permute(1, 2, 0)).view(-1).sigmoid()
        scores = torch.where(scores > least_score, scores, NEVER)
        count = scores.shape[0] if most < 0 else torch.sym_min(most, scores.shape[0])
        scores, index = scores.topk(count)
        anchor = torch.div(index, classes, rounding_mode="floor")
        delta = contiguous(delta[0].permute(1, 2, 0)).view(-1, 4)
        boxes = decode(head.bbox_coder, priors[anchor], delta[anchor], size)
        parts.append(Candidates(boxes, scores, index % classes, torch.full_like(index, level)))
    found = Candidates(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if least_side < 0:
        return found
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    wide = (sides > least_side).all(1)
    return found._replace(scores=torch.where(wide, found.scores, NEVER))


def decode(coder, anchors: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes that a network moved and resized; ``DeltaXYWHBBoxCoder`` of mmdet without a question
    that depends on their number.

    Args:
        coder: mmdet's.
        anchors: (N, 4) x1, y1, x2, y2.
        deltas: (N, 4), as the network gives them.
        size: height and width to clip to.
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    shift, stretch = deltas.split(2, dim=1)
    most = abs(math.log(16 / 1000))  # mmdet's
    sides = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) * 0.5 + sides * shift
    half = sides * stretch.clamp(-most, most).exp() * 0.5
    boxes = torch.cat([centre - half, centre + half], dim=1)
    if not coder.clip_border:
        return boxes
    height, width = size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x, y], dim=2).flatten(1)


def check_coder(coder, where: str) -> None:
    """Raise ``ValueError`` where boxes are coded otherwise than :func:`decode` knows."""
    name = type(coder).__name__
    if name != "DeltaXYWHBBoxCoder" or coder.add_ctr_clamp:
        clamped = " with add_ctr_clamp" if name == "DeltaXYWHBBoxCoder" else ""
        raise ValueError(
            f"{where} must code boxes by DeltaXYWHBBoxCoder without add_ctr_clamp to be exported, "
            f"got {name}{clamped}"
        )


def check_anchor_head(head: nn.Module, where: str) -> None:
    """Raise ``ValueError`` where a dense head differs from what :func:`dense_candidates` knows."""
    check_coder(head.bbox_coder, where)
    if not head.use_sigmoid_cls:
        raise ValueError(f"{where} must score by the sigmoid to be exported, and uses the softmax")


def iou_threshold(test_cfg: Mapping, where: str) -> float:
    """The threshold of plain, class-wise suppression.

    Raises:
        ValueError: if the config asks for another kind.
    """
    nms = dict(test_cfg.get("nms") or {})
    kind, threshold = nms.pop("type", "nms"), nms.pop("iou_threshold", None)
    nms.pop("split_thr", None)  # how it is computed, not what
    if kind != "nms" or threshold is None or nms:
        raise ValueError(
            f"{where}.nms must be of type 'nms' with an iou_threshold alone to be exported, got "
            f"{dict(test_cfg.get('nms') or {})}"
        )
    return float(threshold)
