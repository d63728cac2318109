"""Class maps straight from scores at a head's own size."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import triton
from .bilinear_resize import chosen_impl
from .torch_internals.exporting import is_exporting

#: By the name that mmseg gives a flip, the axis of (B, K, H, W) that it turns round.
FLIPS = {"horizontal": 3, "vertical": 2}


class Geometry(NamedTuple):
    """How scores at a head's own size become those of an image, as mmseg's segmentors do it.

    They are resized to ``size``, ``padding`` is cut off, what is left is flipped and resized to
    ``out_size``; both times bilinearly.

    Attributes:
        size: (H, W) of the network's input, padding included.
        padding: of it, on the left, right, top and bottom, as mmseg's ``padding_size``.
        flip: ``'horizontal'``, ``'vertical'`` or ``None``.
        out_size: (H, W) of the result; ``None`` for what is left without padding.
        align_corners: as of ``F.interpolate``, both times.
    """

    size: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    flip: str | None = None
    out_size: tuple[int, int] | None = None
    align_corners: bool = False

    @property
    def cropped(self) -> tuple[int, int]:
        """Size without padding."""
        left, right, top, bottom = self.padding
        return self.size[0] - top - bottom, self.size[1] - left - right

    @property
    def final(self) -> tuple[int, int]:
        """Size of the result."""
        return self.cropped if self.out_size is None else self.out_size

    def checked(self) -> Geometry:
        """Itself, as plain numbers.

        Raises:
            ValueError: for sizes below one, negative padding or another flip.
        """
        plain = Geometry(
            tuple(map(int, self.size)),
            tuple(map(int, self.padding)),
            self.flip,
            None if self.out_size is None else tuple(map(int, self.out_size)),
            bool(self.align_corners),
        )
        if len(plain.size) != 2 or len(plain.padding) != 4 or min(plain.padding) < 0:
            raise ValueError(f"size and padding must be two and four numbers, got {self}")
        if len(plain.final) != 2 or min(*plain.cropped, *plain.final) < 1:
            raise ValueError(f"sizes must be at least 1 without padding, got {self}")
        if plain.flip is not None and plain.flip not in FLIPS:
            raise ValueError(f"flip must be None or one of {', '.join(FLIPS)}, got {plain.flip!r}")
        return plain


class ClassMap(NamedTuple):
    """Classes of pixels, and how high each scored.

    Attributes:
        classes: (B, H, W) int64.
        scores: (B, H, W), the scores of these classes; ``None`` if not asked for.
    """

    classes: Tensor
    scores: Tensor | None


def resized_argmax(
    logits: Tensor,
    geometry: Geometry,
    *,
    threshold: float | None = None,
    with_scores: bool = False,
    impl: str = "auto",
) -> ClassMap:
    """The class of each pixel of an image, from scores at a head's own size.

    Equal to ``argmax`` of the scores that :func:`resized_scores` gives, except where the two best
    differ by less than the rounding of an interpolation. With one class, 1 where its sigmoid
    exceeds ``threshold``, else 0.

    Args:
        logits: (B, K, h, w), floating point, in any layout.
        geometry: from ``logits`` to the image.
        threshold: for one class, and only for one.
        with_scores: whether to return scores too; for one class, its sigmoid.
        impl: ``'reference'``, ``'tiled'``, ``'triton'`` or ``'auto'``, see
            :func:`swin_backbone.ops.resized_cross_entropy`.

    Raises:
        ValueError: for other shapes, and for a threshold that is missing or has no use.
        TypeError: for other dtypes.
    """
    from . import banded_argmax as resized_bands  # which builds on this module

    geometry = geometry.checked()
    check(logits, threshold)
    impl = "reference" if is_exporting() and impl == "auto" else chosen_impl(impl, logits)
    if impl == "triton":
        return _by_kernel(logits, geometry, threshold, with_scores)
    if impl == "tiled":
        views = [resized_bands.View.whole(logits, geometry)]
        return resized_bands.merged_argmax(views, threshold=threshold, with_scores=with_scores)
    return classes_of(resized_scores(logits, geometry), threshold, with_scores)


def _by_kernel(logits, geometry: Geometry, threshold, with_scores: bool) -> ClassMap:
    single = threshold is not None
    left, right, top, bottom = geometry.padding
    steps = zip(
        geometry.size, ((top, bottom), (left, right)), ("vertical", "horizontal"), geometry.final,
        strict=True,
    )  # fmt: skip
    rows, columns = (
        [size, *ends, int(geometry.flip == flip), final] for size, ends, flip, final in steps
    )
    classes, scores = triton.resized_argmax_op.classes_of(
        logits.detach().contiguous(), rows, columns, geometry.align_corners, with_scores or single
    )
    if single:
        return classes_of(scores.unsqueeze(1), threshold, with_scores)
    return ClassMap(classes, scores if with_scores else None)


def resized_scores(logits: Tensor, geometry: Geometry) -> Tensor:
    """All scores of all pixels of an image, (B, K, H, W): what defines :func:`resized_argmax`."""
    geometry = geometry.checked()
    resize = {"mode": "bilinear", "align_corners": geometry.align_corners}
    scores = F.interpolate(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), geometry.size, **resize
    )
    left, _, top, _ = geometry.padding
    height, width = geometry.cropped
    scores = scores[:, :, top : top + height, left : left + width]
    if geometry.flip is not None:
        scores = scores.flip(FLIPS[geometry.flip])
    return F.interpolate(scores, geometry.final, **resize)


def classes_of(scores: Tensor, threshold: float | None, with_scores: bool) -> ClassMap:
    """Classes of (B, K, H, W) scores."""
    if scores.shape[1] == 1:
        chance = scores.sigmoid().squeeze(1)
        return ClassMap((chance > threshold).long(), chance if with_scores else None)
    best, classes = scores.max(1)
    return ClassMap(classes, best if with_scores else None)


def check(logits: Tensor, threshold: float | None) -> None:
    """Raise what :func:`resized_argmax` says."""
    if logits.dim() != 4 or 0 in logits.shape[1:]:
        raise ValueError(
            f"logits must be (B, K, h, w), with K, h and w from 1, got {tuple(logits.shape)}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if (threshold is not None) != (logits.shape[1] == 1):
        raise ValueError(
            f"threshold is for one class, and only for one: got {threshold} and "
            f"{logits.shape[1]} classes"
        )
