"""Losses of overlaps without a copy of a number to the device.

mmdet makes a tensor of the smallest area that it divides by, in each loss: a copy that waits for
all that the device has to do. As a number it waits for nothing. The same bits, and gradients but of
an area that is that number exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.torch_internals.module_contents import STANDS_FOR
from .rewrite import (
    Rewrite,
    Undo,
    imported,
    inside_decorators,
    own_method,
    replace_methods,
    with_globals,
)

#: Losses by the name of their class, and the function that each calls.
FUNCTIONS = {"IoULoss": "iou_loss", "GIoULoss": "giou_loss"}


def finds(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__name__ in FUNCTIONS and kind is imported("mmdet.models.losses", kind.__name__)


def why_not(module: nn.Module) -> str | None:
    return own_method(module, "forward", type(module))


def apply(module: nn.Module) -> Undo:
    stock, name = type(module).forward, FUNCTIONS[type(module).__name__]
    changed = inside_decorators(
        stock.__globals__[name], lambda one: with_globals(one, bbox_overlaps=overlaps_of_pairs)
    )
    forward = with_globals(stock, **{name: changed})
    setattr(forward, STANDS_FOR, stock)  # and nobody watches the module
    return replace_methods(module, {"forward": forward})


def overlaps_of_pairs(
    bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou", is_aligned: bool = False, eps: float = 1e-6
) -> Tensor:
    """``bbox_overlaps``: of boxes (N, 4) and as many others, (N,), by mmdet's steps."""
    if not (is_aligned and mode in ("iou", "giou") and _are_pairs(bboxes1, bboxes2)):
        stock = imported("mmdet.structures.bbox", "bbox_overlaps")
        return stock(bboxes1, bboxes2, mode, is_aligned, eps)
    area, other = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (bboxes1, bboxes2))
    common = _area(
        torch.max(bboxes1[:, :2], bboxes2[:, :2]), torch.min(bboxes1[:, 2:], bboxes2[:, 2:])
    )
    union = area + other - common
    if mode == "iou":
        return common / union.clamp(min=eps)
    around = _area(
        torch.min(bboxes1[:, :2], bboxes2[:, :2]), torch.max(bboxes1[:, 2:], bboxes2[:, 2:])
    ).clamp(min=eps)
    union = union.clamp(min=eps)
    return common / union - (around - union) / around


def _are_pairs(boxes, others) -> bool:
    return boxes.dim() == 2 and boxes.shape == others.shape == (len(boxes), 4) and len(boxes) > 0


def _area(corner: Tensor, opposite: Tensor) -> Tensor:
    """Of boxes between two corners, as mmdet has it: none where they are the wrong way round."""
    clamp = imported("mmdet.structures.bbox.bbox_overlaps", "fp16_clamp")
    sides = clamp(opposite - corner, min=0)
    return sides[:, 0] * sides[:, 1]


REWRITE = Rewrite(
    "iou_losses",
    "losses of overlaps without copies to the GPU",
    finds,
    why_not,
    apply,
)
