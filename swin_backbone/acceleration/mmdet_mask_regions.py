"""Regions of mmdet's mask head in few numbers, on a GPU.

How many regions have a mask differs from step to step, and convolutions of another number of them
take a millisecond of the host each, as cuDNN plans them anew. Here empty regions are added up to a
multiple of 64; what comes of them is cut off, and gives no gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mmdet_mask_targets import finds, stock
from .rewrite import Rewrite, Undo, own_method, replace_methods

#: Regions come in multiples of so many.
MULTIPLE = 64
#: Norms that tell no region from another.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm2d)


def why_not(head: nn.Module) -> str | None:
    if any(isinstance(module, BATCH_NORMS) for module in head.modules()):
        return "its norms take statistics of all regions"
    return own_method(head, "forward", stock())


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"forward": forward})


def empty_regions(x: Tensor) -> int:
    """How many are added to regions (N, C, h, w)."""
    if not x.is_cuda or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return 0
    return -len(x) % MULTIPLE


def forward(head: nn.Module, x: Tensor) -> Tensor:
    """``FCNMaskHead.forward``: masks (N, classes, H, W) of regions (N, C, h, w)."""
    more = empty_regions(x)
    if not more:
        return type(head).forward(head, x)
    padded = functional.pad(x, (0, 0, 0, 0, 0, 0, 0, more))
    return type(head).forward(head, padded)[: len(x)]


REWRITE = Rewrite("mask_regions", "regions in multiples of 64", finds, why_not, apply)
