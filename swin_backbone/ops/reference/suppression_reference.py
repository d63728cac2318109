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


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Box by box, best first; arguments and result are those of
    :func:`swin_backbone.ops.non_maximum_suppression`."""
    order = scores.sort(descending=True, stable=True).indices
    over = overlaps(boxes[order], boxes[order]) > iou_threshold
    kept: list[int] = []
    gone = torch.zeros(len(order), dtype=torch.bool, device=boxes.device)
    for place in range(len(order)):
        if not gone[place]:
            kept.append(place)
            gone |= over[place]
    return order[torch.tensor(kept, dtype=torch.long, device=boxes.device)]
