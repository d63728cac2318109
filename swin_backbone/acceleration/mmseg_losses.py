"""Losses of mmseg's decode heads from scores of the head's own size.

Stock heads resize K scores to each pixel of the label map, for cross entropy and for the accuracy
that is logged. Here cross entropy takes the scores as the head left them, see
:func:`swin_backbone.ops.resized_cross_entropy`. Losses of another kind get resized scores, made
once, and the accuracy is counted without sorting them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.plain_modules import is_bare
from ..ops import (
    count_correct,
    resize_bilinear,
    resized_binary_cross_entropy,
    resized_cross_entropy,
)
from .mmseg_heads import decode_head, is_decode_head
from .mmseg_internals import methods_behind_losses, stacked_labels
from .rewrite import Rewrite, Undo, imported, own_methods, replace_methods


def why_not(head: nn.Module) -> str | None:
    stock = decode_head()
    reason = own_methods(head, methods_behind_losses(stock), stock)
    if reason is not None:
        return reason
    if head.ignore_index is None:
        return "it has no ignore_index"
    if head.sampler is None and not any(_takes_scores(loss) for loss in _losses(head)):
        return f"{type(_losses(head)[0]).__name__} needs scores at the size of the labels"
    return None


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"loss_by_feat": loss_by_feat})


def loss_by_feat(head: nn.Module, seg_logits: Tensor, batch_data_samples: list) -> dict:
    """``BaseDecodeHead.loss_by_feat``, with the same keys and values.

    Args:
        head: the head.
        seg_logits: (B, K, h, w) scores.
        batch_data_samples: B data samples with label maps (1, H, W).
    """
    labels = stacked_labels(head, batch_data_samples).squeeze(1)
    scores = _Scores(seg_logits, labels, head.align_corners, head.ignore_index)
    weight = None
    if head.sampler is not None:
        weight = head.sampler.sample(scores.resized(), labels.unsqueeze(1))
    losses: dict[str, Tensor] = {}
    for loss in _losses(head):
        value = scores.loss(loss, weight)
        name = loss.loss_name
        losses[name] = losses[name] + value if name in losses else value
    losses["acc_seg"] = scores.accuracy()
    return losses


class _Scores:
    """Scores of a head beside the labels that they belong to; what is made of them, made once."""

    def __init__(self, logits: Tensor, labels: Tensor, align_corners: bool, ignore_index: int):
        self.logits = logits
        self.labels = labels
        self.align_corners = align_corners
        self.ignore_index = ignore_index
        self._resized: Tensor | None = None
        self._correct: Tensor | None = None

    def resized(self) -> Tensor:
        """(B, K, H, W): scores at the size of the labels."""
        if self._resized is None:
            self._resized = resize_bilinear(
                self.logits, self.labels.shape[1:], align_corners=self.align_corners
            )
        return self._resized

    def loss(self, loss: nn.Module, weight: Tensor | None) -> Tensor:
        """What ``loss`` gives for the resized scores."""
        if not _takes_scores(loss):
            return loss(self.resized(), self.labels, weight=weight, ignore_index=self.ignore_index)
        function = resized_binary_cross_entropy if loss.use_sigmoid else resized_cross_entropy
        value, correct = function(
            self.logits,
            self.labels,
            align_corners=self.align_corners,
            ignore_index=self.ignore_index,
            class_weight=_class_weight(loss, self.logits),
            pixel_weight=weight,
            reduction=loss.reduction,
            avg_non_ignore=loss.avg_non_ignore,
        )
        self._correct = correct if self._correct is None else self._correct
        return loss.loss_weight * value

    def accuracy(self) -> Tensor:
        """Per cent of the pixels that are not ignored whose best score is their label's, (1,)."""
        if self.labels.shape[0] == 0:
            return self.logits.new_zeros(())
        if self._correct is None:
            self._correct = count_correct(self.resized(), self.labels, self.ignore_index)
        eps = torch.finfo(torch.float32).eps  # as mmseg: no division by zero, and 100 % of nothing
        counted = (self.labels != self.ignore_index).sum()
        return ((self._correct + eps) * (100.0 / (counted + eps))).view(1)


def _losses(head: nn.Module) -> list[nn.Module]:
    loss = head.loss_decode
    return list(loss) if isinstance(loss, nn.ModuleList) else [loss]


def _takes_scores(loss: nn.Module) -> bool:
    """Whether a loss is cross entropy as mmseg defines it, and nobody watches it."""
    stock = imported("mmseg.models.losses.cross_entropy_loss", "CrossEntropyLoss")
    if not is_bare(loss, stock) or loss.use_mask:
        return False
    if loss.use_sigmoid:  # without reduction a loss of each class; weights are mmseg's to refuse
        return loss.class_weight is None and loss.reduction in ("mean", "sum")
    return loss.reduction in ("mean", "sum", "none")


def _class_weight(loss: nn.Module, logits: Tensor) -> Tensor | None:
    """The loss's weights of classes, at least float32, moved to the scores' device once."""
    if loss.class_weight is None:
        return None
    dtype = torch.promote_types(logits.dtype, torch.float32)
    kept = loss.__dict__.setdefault("_class_weights", {})
    if (dtype, logits.device) not in kept:
        kept[dtype, logits.device] = logits.new_tensor(loss.class_weight, dtype=dtype)
    return kept[dtype, logits.device]


REWRITE = Rewrite(
    "losses", "cross entropy from the head's own scores", is_decode_head, why_not, apply
)
