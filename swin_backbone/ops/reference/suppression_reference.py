"""Non-maximum suppression in plain operators, which define it."""

from __future__ import annotations

import torch
from torch import Tensor


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """(N, M): intersection over union of boxes (N, 4) and (M, 4), as x1, y1, x2, y2; NaN of boxes
    without an area."""
    corner = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    opposite = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (opposite - corner).clamp(min=0).prod(-1)
    areas = [(some[:, 2:] - some[:, :2]).prod(1) for some in (boxes, others)]
    return common / (areas[0][:, None] + areas[1][None] - common)


def stays(boxes: Tensor, iou_threshold: float) -> Tensor:
    """bool (N,): which boxes (N, 4), best first, no better one overlaps that itself stays. Box by
    box."""
    over = overlaps(boxes, boxes) > iou_threshold
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    gone = kept.clone()
    for place in range(len(boxes)):
        if not gone[place]:
            kept[place] = True
            gone |= over[place]
    return kept


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Arguments and result are those of :func:`swin_backbone.ops.non_maximum_suppression`."""
    order = scores.sort(descending=True, stable=True).indices
    return order[stays(boxes[order], iou_threshold)]
