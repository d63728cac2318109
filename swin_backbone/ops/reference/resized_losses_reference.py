"""What the losses on resized scores are: plain PyTorch, with all scores at full size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..loss_terms import Terms


def pixel_losses(logits: Tensor, labels: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """:func:`sigmoid_loss` or :func:`softmax_loss`, as ``terms`` say."""
    return (sigmoid_loss if terms.sigmoid else softmax_loss)(logits, labels, terms)


def softmax_loss(logits: Tensor, labels: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Cross entropy of each pixel, and how many have their label's score as the best one.

    Args:
        logits: (B, K, h, w).
        labels: (B, H, W), integers.
        terms: what else the loss depends on.

    Returns:
        (B, H, W) of :func:`loss_dtype`, zero where a label is ignored, NaN where one is no class;
        () int64.
    """
    scores, labels = resized(logits, labels, terms), labels.long()
    counted, known = terms.counted(labels), is_class(labels, scores.shape[1])
    loss = F.cross_entropy(
        scores,
        torch.where(counted & known, labels, terms.ignore_index),
        weight=as_dtype(terms.class_weight, scores.dtype),
        ignore_index=terms.ignore_index,
        label_smoothing=terms.label_smoothing,
        reduction="none",
    )
    loss = terms.weighted(torch.where(counted & ~known, torch.nan, loss))
    return loss, count_best(scores, labels, counted & known)


def sigmoid_loss(logits: Tensor, labels: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """The same for binary cross entropy of each class by itself, summed over the classes.

    A label is the one class that is present. With one class, it is present where the label is 1 and
    absent where it is 0.
    """
    scores, labels = resized(logits, labels, terms), labels.long()
    counted, known = terms.counted(labels), is_class(labels, terms.labels)
    classes = torch.arange(scores.shape[1], device=labels.device)
    if scores.shape[1] == 1:
        classes = classes + 1
    target = (labels.unsqueeze(1) == classes.view(-1, 1, 1)).to(scores.dtype)
    weight = as_dtype(terms.class_weight, scores.dtype)
    loss = F.binary_cross_entropy_with_logits(
        scores, target, pos_weight=None if weight is None else weight.view(-1, 1, 1),
        reduction="none",
    ).sum(1)  # fmt: skip
    loss = torch.where(counted, loss, torch.zeros_like(loss))
    loss = terms.weighted(torch.where(counted & ~known, torch.nan, loss))
    return loss, count_best(scores, labels, counted & is_class(labels, scores.shape[1]))


def resized(logits: Tensor, labels: Tensor, terms: Terms) -> Tensor:
    """Scores at the labels' size, in the dtype that a loss is computed in."""
    logits = logits.to(loss_dtype(logits))
    size = tuple(labels.shape[1:])
    return F.interpolate(logits, size, mode="bilinear", align_corners=terms.align_corners)


def loss_dtype(logits: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.promote_types(logits.dtype, torch.float32)


def as_dtype(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype)


def is_class(labels: Tensor, classes: int) -> Tensor:
    """Where labels name one of so many classes."""
    return (labels >= 0) & (labels < classes)


def count_best(scores: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Pixels of ``counted`` whose label's score no other score exceeds."""
    own = scores.detach().gather(1, torch.where(counted, labels, 0).unsqueeze(1)).squeeze(1)
    return ((own >= scores.detach().amax(1)) & counted).sum()
