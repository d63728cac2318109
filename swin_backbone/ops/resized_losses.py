"""Losses of segmentation on scores at a head's own size, as if they had been resized to the labels.

A head gives K scores for every fourth or eighth pixel. Resized to the labels, they take 16 to 64
times the memory, and most of a training step's time. Here a pixel's scores are interpolated where
they are needed, and never written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import banded_losses as tiled
from . import triton
from .bilinear_resize import chosen_impl
from .loss_terms import Mean, Terms
from .reference import resized_losses_reference as reference


class ResizedLoss(NamedTuple):
    """A loss, and how well its scores name the labels.

    Attributes:
        loss: a scalar, or (B, H, W) with ``reduction='none'``; float32, float64 for float64.
        correct: () int64, pixels that are not ignored and whose label has the best score; equal
            scores count as best. It has no gradient.
    """

    loss: Tensor
    correct: Tensor


def resized_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    align_corners: bool = False,
    ignore_index: int = -100,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    pixel_weight: Tensor | None = None,
    reduction: str = "mean",
    avg_non_ignore: bool = False,
    avg_factor: float | Tensor | None = None,
    impl: str = "auto",
) -> ResizedLoss:
    """Cross entropy of scores resized bilinearly to the labels.

    As ``F.interpolate(logits, labels.shape[1:], mode='bilinear', align_corners=align_corners)``
    and ``F.cross_entropy``, reduced as mmseg's ``CrossEntropyLoss`` does. A mean is the weighted
    sum divided by ``avg_factor`` or, without one, by the number of pixels; by that of pixels not
    ignored with ``avg_non_ignore``; by the sum of their labels' class weights with
    ``class_weight``. 1.2e-7 is added to the divisor.

    Args:
        logits: (B, K, h, w), floating point, in any layout. Only they get a gradient.
        labels: (B, H, W), integers: a class or ``ignore_index``. Another label is a ``ValueError``
            on the CPU, and makes its pixel's loss NaN on a GPU or under ``torch.compile``.
        align_corners: as of ``F.interpolate``.
        ignore_index: label of pixels that do not count.
        class_weight: (K,), what pixels of a class count.
        label_smoothing: as of ``F.cross_entropy``.
        pixel_weight: (B, H, W), what pixels count.
        reduction: ``'mean'``, ``'sum'`` or ``'none'``.
        avg_non_ignore: see above.
        avg_factor: see above; not with ``'sum'``.
        impl: ``'reference'``, plain PyTorch with scores at full size; ``'tiled'``, PyTorch by rows;
            ``'triton'``, kernels; ``'auto'``, the fastest one that can run.

    Raises:
        ValueError: for shapes, values and combinations other than these.
        TypeError: for other dtypes.
    """
    terms = Terms(
        bool(align_corners), ignore_index, class_weight, pixel_weight, float(label_smoothing),
        False, logits.shape[1] if logits.dim() == 4 else 0,
    )  # fmt: skip
    mean = Mean(reduction, avg_non_ignore, avg_factor)
    return _loss(logits, labels, terms, mean, impl)


def resized_binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    align_corners: bool = False,
    ignore_index: int = -100,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    reduction: str = "mean",
    avg_non_ignore: bool = False,
    avg_factor: float | Tensor | None = None,
    impl: str = "auto",
) -> ResizedLoss:
    """Binary cross entropy of each class, of scores resized bilinearly to the labels.

    As mmseg's ``CrossEntropyLoss(use_sigmoid=True)``. A label is the one class that is present;
    with one class, labels are 0 (absent) and 1 (present). A mean is over pixels and classes: the
    weighted sum divided by ``avg_factor``; without one by K times the number of pixels, or of
    pixels not ignored with ``avg_non_ignore``.

    Args:
        logits: as of :func:`resized_cross_entropy`, as are all arguments that are not listed.
        labels: (B, H, W), integers; those below zero are ignored too.
        class_weight: (K,), factor of the loss where a class is present (``pos_weight``). mmseg
            applies it along the image's columns, which fails but with one class.
        reduction: with ``'none'`` the loss (B, H, W) is each pixel's sum over the classes.

    Raises:
        ValueError: as :func:`resized_cross_entropy`.
        TypeError: likewise.
    """
    terms = Terms(
        bool(align_corners), ignore_index, class_weight, pixel_weight, 0.0, True,
        logits.shape[1] if logits.dim() == 4 else 0,
    )  # fmt: skip
    return _loss(logits, labels, terms, Mean(reduction, avg_non_ignore, avg_factor), impl)


def _loss(logits: Tensor, labels: Tensor, terms: Terms, mean: Mean, impl: str) -> ResizedLoss:
    """Either loss, by the implementation that is asked for."""
    check(logits, labels, terms, mean)
    run = IMPLEMENTATIONS[chosen_impl(impl, logits)]
    return ResizedLoss(*run(logits, labels, terms, mean))


def _in_torch(pixel_losses):
    def run(logits, labels, terms: Terms, mean: Mean) -> tuple[Tensor, Tensor]:
        loss, correct = pixel_losses(logits, labels, terms)
        return mean.of(loss, labels, terms), correct

    return run


def _in_kernels(logits, labels, terms: Terms, mean: Mean) -> tuple[Tensor, Tensor]:
    class_weight = terms.class_weight
    if class_weight is None and terms.label_smoothing:
        class_weight = torch.ones(terms.classes, device=logits.device)
    as_read = lambda x: None if x is None else x.contiguous()  # noqa: E731
    divisor, per_pixel = mean.divisor(labels, terms)
    # Compiled, a number that follows from the labels' size would have a graph for each size.
    afterwards = isinstance(divisor, Tensor) or (torch.compiler.is_compiling() and not per_pixel)
    loss, correct, *_ = triton.resized_losses_op.resized_loss(
        logits.contiguous(), labels.contiguous(), as_read(class_weight),
        as_read(terms.pixel_weight), terms.align_corners, terms.ignore_index,
        terms.label_smoothing, terms.sigmoid, mean.reduction == "none",
        1.0 if afterwards else divisor, per_pixel,
    )  # fmt: skip
    return loss / divisor if afterwards else loss, correct


IMPLEMENTATIONS = {
    "reference": _in_torch(reference.pixel_losses),
    "tiled": _in_torch(tiled.pixel_losses),
    "triton": _in_kernels,
}


def check(logits: Tensor, labels: Tensor, terms: Terms, mean: Mean) -> None:
    """Raise what the losses say of arguments that do not fit."""
    if logits.dim() != 4 or 0 in logits.shape[1:]:
        raise ValueError(
            f"logits must be (B, K, h, w), with K, h and w from 1, got {tuple(logits.shape)}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if labels.dim() != 3 or len(labels) != len(logits) or 0 in labels.shape[1:]:
        raise ValueError(
            f"labels must be (B, H, W), with H and W from 1 and B = {len(logits)}, got "
            f"{tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    _check_weight("class_weight", terms.class_weight, logits.shape[1:2])
    _check_weight("pixel_weight", terms.pixel_weight, labels.shape)
    if not 0 <= terms.label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {terms.label_smoothing}")
    mean.check()
    _check_labels(labels, terms)


def _check_weight(name: str, weight: Tensor | None, shape: tuple[int, ...]) -> None:
    if weight is None:
        return
    if weight.shape != shape:
        raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(weight.shape)}")
    if weight.requires_grad:
        raise ValueError(f"{name} gets no gradient; detach it")


def _check_labels(labels: Tensor, terms: Terms) -> None:
    """Not where it would make the host wait for a GPU."""
    if labels.is_cuda or torch.compiler.is_compiling() or labels.numel() == 0:
        return
    wrong = labels[terms.counted(labels) & ~reference.is_class(labels, terms.labels)]
    if len(wrong):
        raise ValueError(
            f"labels must be from 0 to {terms.labels - 1}, or ignore_index "
            f"({terms.ignore_index}), got {wrong[0].item()}"
        )


def count_correct(scores: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Pixels whose label has the best score, as :class:`ResizedLoss` counts them.

    For scores that are at full size anyway. One pass over them; ``topk``, with which mmseg computes
    the accuracy that it logs, takes many.

    Args:
        scores: (B, K, H, W).
        labels: (B, H, W), integers.
        ignore_index: label of pixels that do not count. Nor do labels that are no class.

    Returns:
        () int64, on the device of ``scores``.
    """
    labels = labels.long()
    counted = (labels != ignore_index) & reference.is_class(labels, scores.shape[1])
    return reference.count_best(scores, labels, counted)
