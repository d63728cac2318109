"""Which query is matched with which object, for all layers and images of a mask transformer.

mmdet's Mask2Former compares queries and objects layer by layer and image by image, repeats points
for each query, and waits for the device at each of them. Here the costs of an image's layers are
computed together, in float32, and come to the host once for the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import mmdet_matching


def why_not_matched(assigner) -> str | None:
    """Why an assigner's matches are not those of :func:`matched_queries`, or ``None``."""
    reason = mmdet_matching.why_not_matched(assigner, tuple(KINDS))
    if reason is None and not all(
        getattr(cost, "use_sigmoid", True) for cost in assigner.match_costs
    ):
        return "its costs are of softmax"
    return reason


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """(N, C, P): values of maps (N, C, H, W) at points (N, P, 2), x and y in [0, 1]."""
    grid = (points * 2 - 1).unsqueeze(2)
    return functional.grid_sample(maps, grid, align_corners=False).squeeze(3)


@torch.no_grad()
def matched_queries(
    head: nn.Module,
    scores: Sequence[Tensor],
    masks: Sequence[Tensor],
    labels: Sequence[Tensor],
    truth: Sequence[Tensor],
    points: Tensor,
):
    """The query of each object.

    Args:
        head: with the assigner.
        scores: (B, Q, classes) of each of L layers.
        masks: (B, Q, h, w) of each layer.
        labels: (G,) of each image.
        truth: (G, H, W) of each image, floating.
        points: (L, B, P, 2), at which masks are compared.

    Returns:
        numpy int64 (L, G) for each image.
    """
    costs = []
    for image, own in enumerate(labels):
        if len(own):
            at = points[:, image].to(truth[image].dtype)
            queries = torch.stack([one[image] for one in masks]).to(at.dtype)
            found = sample(truth[image][None], at.flatten(0, 1)[None])[0]
            found = found.view(len(own), *at.shape[:2]).transpose(0, 1)
            classes = torch.stack([one[image] for one in scores]).to(at.dtype)
            costs.append(_cost(head.assigner, classes, own, sample(queries, at), found))
    return _by_object(costs, [len(own) for own in labels], len(scores))


def _by_object(costs: Sequence[Tensor], counts: Sequence[int], layers: int) -> list:
    import numpy as np

    pairs, queries = iter(mmdet_matching.matched(costs)), []
    for count in counts:
        found = np.empty((layers, count), dtype=np.int64)
        if count:
            rows, columns = next(pairs)
            np.put_along_axis(found, columns, rows, 1)
        queries.append(found)
    return queries


def _cost(assigner, scores: Tensor, labels: Tensor, masks: Tensor, truth: Tensor) -> Tensor:
    """(L, Q, G), of scores (L, Q, classes), masks (L, Q, P) and truth (L, G, P)."""
    return sum(
        KINDS[type(cost).__name__](cost, scores, labels, masks, truth) * cost.weight
        for cost in assigner.match_costs
    )


def _classification(cost, scores, labels, masks, truth) -> Tensor:
    return -scores.softmax(-1)[..., labels]


def _cross_entropy(cost, scores, labels, masks, truth) -> Tensor:
    # Of the losses for both labels, softplus(-x) and softplus(x), the difference is x.
    both = functional.softplus(masks).sum(-1, keepdim=True)
    return (both - masks @ truth.mT) / masks.shape[-1]


def _dice(cost, scores, labels, masks, truth) -> Tensor:
    masks = masks.sigmoid() if cost.pred_act else masks
    power = 1 if cost.naive_dice else 2
    sizes = masks.pow(power).sum(-1)[..., None] + truth.pow(power).sum(-1)[:, None]
    return 1 - (2 * (masks @ truth.mT) + cost.eps) / (sizes + cost.eps)


#: By the name of the class in mmdet, which this package does not import.
KINDS = {
    "ClassificationCost": _classification,
    "CrossEntropyLossCost": _cross_entropy,
    "DiceCost": _dice,
}
