"""What rewrites use of mmseg and do not find in mmseg's documentation.

Tested with mmseg 1.2.2 (classic line) and onedl-mmsegmentation 1.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

#: The method of a decode head that stacks label maps.
STACK = "_stack_batch_gt"


def stacked_labels(head: nn.Module, samples: Sequence) -> Tensor:
    """Label maps of data samples as one tensor (B, 1, H, W), as the head stacks them; where it has
    no method for it, as mmseg's did.

    Args:
        head: the decode head.
        samples: B data samples with label maps (1, H, W).
    """
    stack = getattr(head, STACK, None)
    return torch.stack([s.gt_sem_seg.data for s in samples]) if stack is None else stack(samples)


def methods_behind_losses(stock: type) -> tuple[str, ...]:
    """Methods of a decode head that decide what its losses are."""
    return ("loss_by_feat", STACK) if hasattr(stock, STACK) else ("loss_by_feat",)


def method_of_features(stock: type) -> Callable | None:
    """The method of UPerNet's head that fuses its pyramid; ``None`` where it has another name, and
    is then left alone."""
    return getattr(stock, "_forward_feature", None)


def chosen_inputs(head: nn.Module, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of a backbone's maps, those that a decode head takes, as its ``in_index`` says."""
    return head._transform_inputs(inputs)
