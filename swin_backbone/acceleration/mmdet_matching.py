"""Which query is matched with which object, of several layers and images with one wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..graphs.recording import starts_kernels
from .rewrite import imported

ASSIGNER = "mmdet.models.task_modules.assigners.hungarian_assigner"
COSTS = "mmdet.models.task_modules.assigners.match_cost"


def why_not_matched(assigner, kinds: Sequence[str]) -> str | None:
    """Why an assigner's matches do not follow from costs of these kinds alone, or ``None``.

    Args:
        assigner: of mmdet.
        kinds: names of mmdet's classes of costs.
    """
    if type(assigner) is not imported(ASSIGNER, "HungarianAssigner"):
        return f"its assigner is a {type(assigner).__name__}"
    for cost in assigner.match_costs:
        name = type(cost).__name__
        if name not in kinds or type(cost) is not imported(COSTS, name):
            return f"{name} is a cost of another kind"
    return None


@torch.no_grad()
def matched(costs: Sequence[Tensor]) -> list[tuple]:
    """Queries and objects that belong together, at the least cost.

    Args:
        costs: (L, Q, G) of each image, of L layers.

    Returns:
        Of each image, numpy int64: queries in their order, and the object of each, both
        (L, min(Q, G)).

    Raises:
        ValueError: if a cost is no number; SciPy's.
    """
    import numpy as np

    solve, pairs, start = imported(ASSIGNER, "linear_sum_assignment"), [], 0
    flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy() if costs else None
    if costs and not starts_kernels():
        # Kernels are compiled ahead: costs are memory as it was found, and any match will do.
        flat = np.nan_to_num(flat)
    for cost in costs:
        one = flat[start : start + cost.numel()].reshape(cost.shape)
        found = np.array([solve(layer) for layer in one], dtype=np.int64)
        pairs.append((found[:, 0], found[:, 1]))
        start += cost.numel()
    return pairs
