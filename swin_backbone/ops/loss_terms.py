"""What a loss on resized scores depends on besides scores and labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Added to what a mean divides by, as mmseg does, so that no label at all gives zero.
EPSILON = torch.finfo(torch.float32).eps
REDUCTIONS = ("mean", "sum", "none")


class Terms(NamedTuple):
    """See :func:`swin_backbone.ops.resized_cross_entropy` for what each of them means.

    Attributes:
        align_corners: of the resize.
        ignore_index: label of pixels that do not count.
        class_weight: (K,) or ``None``.
        pixel_weight: (B, H, W) or ``None``.
        label_smoothing: fraction of the target that is spread over all classes.
        sigmoid: each class by itself; labels below zero then do not count either.
        classes: K, of the scores.
    """

    align_corners: bool
    ignore_index: int
    class_weight: Tensor | None
    pixel_weight: Tensor | None
    label_smoothing: float
    sigmoid: bool
    classes: int

    @property
    def labels(self) -> int:
        """How many labels there are. One class by itself has two: absent and present."""
        return 2 if self.sigmoid and self.classes == 1 else self.classes

    def counted(self, labels: Tensor) -> Tensor:
        """Pixels that are not ignored."""
        counted = labels != self.ignore_index
        return counted & (labels >= 0) if self.sigmoid else counted

    def weighted(self, loss: Tensor) -> Tensor:
        """Each pixel's loss (B, H, W) times its weight."""
        return loss if self.pixel_weight is None else loss * self.pixel_weight.to(loss.dtype)


class Mean(NamedTuple):
    """How the losses of pixels become one, see :func:`swin_backbone.ops.resized_cross_entropy`.

    Attributes:
        reduction: one of :data:`REDUCTIONS`.
        avg_non_ignore: whether a mean is that of pixels that count.
        avg_factor: what a mean divides by instead.
    """

    reduction: str
    avg_non_ignore: bool
    avg_factor: float | Tensor | None

    def check(self) -> None:
        """Raise ``ValueError`` for what cannot be asked for."""
        if self.reduction not in REDUCTIONS:
            choices = ", ".join(REDUCTIONS)
            raise ValueError(f"reduction must be one of {choices}, got {self.reduction!r}")
        if self.reduction == "sum" and self.avg_factor is not None:
            raise ValueError(f"avg_factor must be None with reduction='sum', got {self.avg_factor}")

    def divisor(self, labels: Tensor, terms: Terms) -> tuple[float | Tensor, float]:
        """What a sum is divided by: a number, and so much more for each pixel that counts; with
        class weights (but of binary cross entropy), times its label's weight."""
        if self.reduction != "mean":
            return 1.0, 0.0
        each = terms.classes if terms.sigmoid else 1
        if self.avg_factor is not None:
            return self.avg_factor + EPSILON, 0.0
        if self.avg_non_ignore or (terms.class_weight is not None and not terms.sigmoid):
            return EPSILON, float(each)
        return labels.numel() * each + (0.0 if terms.sigmoid else EPSILON), 0.0

    def of(self, losses: Tensor, labels: Tensor, terms: Terms) -> Tensor:
        """Losses of pixels (B, H, W), reduced."""
        if self.reduction == "none":
            return losses
        divisor, per_pixel = self.divisor(labels, terms)
        if per_pixel:
            counted = terms.counted(labels).to(losses.dtype)
            if terms.class_weight is not None and not terms.sigmoid:
                known = (labels >= 0) & (labels < terms.classes)
                own = terms.class_weight[torch.where(known, labels, 0).long()]
                counted = counted * known * own.to(losses.dtype)
            divisor = counted.sum() * per_pixel + divisor
        return losses.sum() / divisor
