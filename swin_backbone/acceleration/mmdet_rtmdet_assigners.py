"""Predictions of RTMDet matched with objects without asking the device about each object.

mmdet goes through the objects of an image to give each its cheapest predictions, as many as the
device has found, and waits for it at every one. Here one step ranks those of all objects, and one
wait tells how many predictions are matched: the same ones, but where two cost the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mmdet_overlaps import ASSIGNERS
from .mmdet_parts import rewrite_of_parts


def dynamic_k_matching(
    assigner, cost: Tensor, pairwise_ious: Tensor, num_gt: int, valid_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """``DynamicSoftLabelAssigner.dynamic_k_matching``: overlaps (M,) and objects (M,) of the
    predictions that are matched, of costs and overlaps (N, G); ``valid_mask`` (A,), which has N of
    all predictions, is left with those."""
    most = min(assigner.topk, len(pairwise_ious))
    counts = pairwise_ious.topk(most, dim=0)[0].sum(0).int().clamp(min=1)
    cheapest = cost.topk(most, dim=0, largest=False)[1]
    ranks = torch.arange(most, device=cost.device)[:, None]
    matched = torch.zeros_like(cost, dtype=torch.bool).scatter(0, cheapest, ranks < counts)
    cheapest = torch.zeros_like(matched).scatter(1, cost.argmin(1, keepdim=True), True)
    matched = torch.where(matched.sum(1, keepdim=True) > 1, cheapest, matched)
    chosen = matched.any(1)
    valid_mask.masked_scatter_(valid_mask.clone(), chosen)
    places = chosen.nonzero().flatten()
    matched = matched[places].to(torch.uint8)
    return (matched * pairwise_ious[places]).sum(1), matched.argmax(1)


REWRITE = rewrite_of_parts(
    "assigners",
    "predictions matched with all objects at once",
    ("assigner",),
    (f"{ASSIGNERS}.dynamic_soft_label_assigner", "DynamicSoftLabelAssigner"),
    {"dynamic_k_matching": dynamic_k_matching},
)
