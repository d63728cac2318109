"""What a loss on resized scores depends on besides scores and labels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Terms(NamedTuple):
    """See :func:`swin_backbone.ops.resized_cross_entropy` for what each of them means.

    Attributes:
        align_corners: of the resize.
        ignore_index: label of pixels that do not count.
        class_weight: (K,) or ``None``.
        pixel_weight: (B, H, W) or ``None``.
        label_smoothing: share of the target that is spread over all classes.
        sigmoid: each class by itself; labels below zero then do not count either.
        classes: how many labels there are: K, but for one class by itself 0 and 1.
    """

    align_corners: bool
    ignore_index: int
    class_weight: Tensor | None
    pixel_weight: Tensor | None
    label_smoothing: float
    sigmoid: bool
    classes: int

    def counted(self, labels: Tensor) -> Tensor:
        """Pixels that are not ignored."""
        counted = labels != self.ignore_index
        return counted & (labels >= 0) if self.sigmoid else counted

    def weighted(self, loss: Tensor) -> Tensor:
        """Each pixel's loss (B, H, W) times its weight."""
        return loss if self.pixel_weight is None else loss * self.pixel_weight.to(loss.dtype)
