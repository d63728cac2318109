"""Non-maximum suppression: plain by our kernels on a GPU, else from torchvision; soft, matching and
rotated written out here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ... import ops
from ...ops.suppression import nearest_float32
from .common import at_least_float32, torchvision_ops
from .overlaps import overlaps, rotated_overlaps

#: Pairs of boxes whose overlaps are held at once, 64 MiB in float32.
PAIRS = 2**24


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that no better box overlaps by more than ``iou_threshold``.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: intersection over union above which the worse box goes. mmcv has it in
            float32, also on a CPU, where torchvision compares with a float64.
        offset: 1 if x2 and y2 are the last pixels of a box, 0 if they are its borders.

    Returns:
        int64 (kept,), best first.
    """
    boxes = at_least_float32(boxes)
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    if ops.dispatch.suppression(boxes) == "triton":
        return ops.non_maximum_suppression(boxes, scores, iou_threshold)
    threshold = nearest_float32(iou_threshold).item()
    return torchvision_ops().nms(boxes, at_least_float32(scores), threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (https://arxiv.org/abs/1704.04503): lower the scores of boxes that overlap a better
    one, instead of dropping them.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2.
        scores: (N,).
        dets: (N, 5), written: kept boxes with their new scores, best first; the rest stays.
        iou_threshold: overlap from which methods 0 and 1 act.
        sigma: width of method 2.
        min_score: boxes whose score falls below it are dropped.
        method: factor on the score of a box with overlap o: 0 drops it, 1 is ``1 - o``, 2 is
            ``exp(-o^2 / sigma)``, whatever the overlap.
        offset: as in :func:`nms`.

    Returns:
        int64 (kept,), indices of the kept boxes.
    """
    factors = _Factors(boxes, iou_threshold, sigma, method, offset)
    scores, left = scores.clone(), torch.ones_like(scores, dtype=torch.bool)
    kept: list[int] = []
    while len(kept) < len(scores):
        remaining = scores.masked_fill(~left, -torch.inf)
        chosen = int(remaining.argmax())
        if not left[chosen]:
            break
        dets[len(kept), :4], dets[len(kept), 4] = boxes[chosen], scores[chosen]
        kept.append(chosen)
        left[chosen] = False
        scores.mul_(factors.of(chosen))
        left &= scores >= min_score
    return torch.tensor(kept, dtype=torch.long, device=scores.device)


class _Factors:
    """Factors on the scores of all boxes as one of them is kept; of few boxes, found at once.

    Args:
        boxes: (N, 4).
        iou_threshold: as of :func:`softnms`, as are the rest.
        sigma: likewise.
        method: likewise.
        offset: likewise.
    """

    def __init__(self, boxes: Tensor, iou_threshold: float, sigma: float, method: int, offset: int):
        self.boxes, self.offset = boxes, offset
        self.threshold, self.sigma, self.method = iou_threshold, sigma, method
        self.table = self._of(boxes[:, None]) if len(boxes) ** 2 <= PAIRS else None

    def of(self, chosen: int) -> Tensor:
        """(N,), of one box."""
        return self._of(self.boxes[chosen]) if self.table is None else self.table[chosen]

    def _of(self, some: Tensor) -> Tensor:
        overlap = overlaps(some, self.boxes, self.offset)
        if self.method == 2:
            return torch.exp(-(overlap**2) / self.sigma)
        lowered = 1 - overlap if self.method == 1 else torch.zeros_like(overlap)
        return torch.where(overlap >= self.threshold, lowered, torch.ones_like(overlap))


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Non-maximum suppression that tells which box suppressed which.

    Args:
        dets: (N, 5), as x1, y1, x2, y2, score.
        iou_threshold: intersection over union from which on the worse box joins the better one.

    Returns:
        A list of indices for each kept box, best first: its own, and those that it suppressed.
    """
    boxes, order = at_least_float32(dets[:, :4]), dets[:, 4].argsort(descending=True, stable=True)
    return [
        group.tolist()
        for group in _suppress(
            order, lambda best, others: overlaps(boxes[best], boxes[others]) >= iou_threshold
        )
    ]


@torch.no_grad()
def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Non-maximum suppression of rotated boxes.

    Args:
        dets: (N, 5), as centre x and y, width, height, angle in radians (clockwise); with
            ``multi_label`` (N, 6), with the label behind them.
        scores: (N,), not needed beside ``order``.
        order: int64 (N,), indices of the boxes, best first.
        dets_sorted: not needed.
        labels: not needed.
        iou_threshold: intersection over union above which the worse box goes.
        multi_label: whether boxes of different labels leave each other alone.

    Returns:
        int64 (kept,), best first.
    """
    boxes = at_least_float32(dets[:, :5])

    def suppressed(best: Tensor, others: Tensor) -> Tensor:
        over = rotated_overlaps(boxes[best], boxes[others]) > iou_threshold
        return over & (dets[best, 5] == dets[others, 5]) if multi_label else over

    return torch.stack([group[0] for group in _suppress(order, suppressed)])


def _suppress(order: Tensor, suppressed: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Each kept index, with those that it suppresses behind it.

    Args:
        order: int64 (N,), not empty, best first.
        suppressed: index and others (n,) -> bool (n,).
    """
    groups = []
    while len(order):
        best, others = order[0], order[1:]
        out = suppressed(best, others)
        groups.append(torch.cat([order[:1], others[out]]))
        order = others[~out]
    return groups
