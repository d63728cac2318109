"""Which of a head's anchors count in an image, which have an object, and what is predicted there.

mmdet makes flags of all anchors of each image and asks the device whether there are any. Where no
anchor is left out nobody is asked; else once for each size of images. Which have an object is asked
once for all images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .mmdet_sampling import SAMPLERS, candidates_by_kind
from .rewrite import imported


def counted_anchors(
    head: nn.Module, anchors: Tensor, sizes: Sequence, metas: Sequence[dict]
) -> list[Tensor | None]:
    """Places of the anchors that count in each image; ``None`` where all do."""
    found: dict[tuple, Tensor | None] = {}
    keys = [tuple(tuple(meta[name][:2]) for name in ("img_shape", "pad_shape")) for meta in metas]
    for key in keys:
        if key not in found:
            found[key] = _of_image(head, anchors, sizes, *key)
    return [found[key] for key in keys]


def _of_image(
    head: nn.Module, anchors: Tensor, sizes: Sequence, shape: tuple, padded: tuple
) -> Tensor | None:
    generator, border = head.prior_generator, head.train_cfg["allowed_border"]
    counts = None
    if _has_padding(generator, sizes, padded):
        counts = torch.cat(list(generator.valid_flags(sizes, padded, anchors.device)))
    if border >= 0:
        rows, columns = shape
        (left, top), (right, bottom) = anchors[:, :2].T, anchors[:, 2:].T
        inside = (left >= -border) & (top >= -border)
        inside &= (right < columns + border) & (bottom < rows + border)
        counts = inside if counts is None else counts & inside
    return None if counts is None else counts.nonzero().flatten()


def _has_padding(generator, sizes: Sequence, padded: tuple[int, int]) -> bool:
    """Whether maps have pixels of an image's padding, of which no anchor counts."""
    return any(
        math.ceil(padded[0] / down) < rows or math.ceil(padded[1] / across) < columns
        for (rows, columns), (across, down) in zip(sizes, generator.strides, strict=True)
    )


def laid_out(
    head: nn.Module, maps: Sequence[Tensor], metas: Sequence[dict], **options: bool
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Anchors of each level of maps, and :func:`counted_anchors` of each image.

    Args:
        head: of mmdet.
        maps: (B, C, rows, columns) of each level.
        metas: of each image.
        options: of the head's generator of anchors.
    """
    sizes = [tuple(x.shape[2:]) for x in maps]
    levels = list(head.prior_generator.grid_priors(sizes, device=maps[0].device, **options))
    return levels, counted_anchors(head, torch.cat(levels), sizes, metas)


def of_level(level: Tensor, channels: int) -> Tensor:
    """(B, a, channels): predictions in the order of a level's anchors."""
    return level.permute(0, 2, 3, 1).reshape(len(level), -1, channels)


def flat_predictions(maps: Sequence[Tensor], channels: int) -> Tensor:
    """(B, A, channels): predictions in the order of all anchors."""
    return torch.cat([of_level(level, channels) for level in maps], 1)


@dataclass
class Assigned:
    """Anchors of a batch, and the objects that they are to find.

    Attributes:
        anchors: (A, 4), of each image the same.
        objects: mmdet's instances of each image.
        numbers: (A,) of each image: the object of each anchor, from 1; 0 for none, -1 for anchors
            that do not count.
        places: (N_i,) of each image: the anchors with an object.
    """

    anchors: Tensor
    objects: Sequence
    numbers: list[Tensor]
    places: list[Tensor]

    @property
    def total(self) -> int:
        """What losses are divided by: anchors with an object, at least one an image."""
        return sum(max(len(one), 1) for one in self.places)

    def chosen(self, maps: Sequence[Tensor], channels: int) -> Tensor:
        """(N, channels): predictions of the anchors with an object, image by image."""
        return self.picked(flat_predictions(maps, channels))

    def picked(self, values: Tensor) -> Tensor:
        """Those (B, A, ...) of the anchors with an object, image by image."""
        return torch.cat([one[place] for one, place in zip(values, self.places, strict=True)])

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Anchors with an object, and their objects, (N, 4) each."""
        images = zip(self.objects, self.numbers, self.places, strict=True)
        objects = [one.bboxes[number[place] - 1] for one, number, place in images]
        return torch.cat([self.anchors[one] for one in self.places]), torch.cat(objects)


def assigned(
    anchors: Tensor, counted: Sequence[Tensor | None], objects: Sequence, assign: Callable
) -> Assigned:
    """Ask which anchors have an object, once.

    Args:
        anchors: (A, 4).
        counted: of each image, by :func:`counted_anchors`.
        objects: mmdet's instances of each image.
        assign: gives an image's assignment: of its number and of the instances with its priors.
    """
    numbers = []
    for image, (one, places) in enumerate(zip(objects, counted, strict=True)):
        priors = type(one)(priors=anchors if places is None else anchors[places])
        found = assign(image, priors).gt_inds
        if places is not None:
            found = found.new_full((len(anchors),), -1).index_copy(0, places, found)
        numbers.append(found)
    return Assigned(anchors, objects, numbers, [one for one, _ in candidates_by_kind(numbers)])


def other_anchors(head: nn.Module, known: str = "FocalLoss") -> str | None:
    """Why not all anchors that count are compared with objects by a known loss of sigmoids."""
    if not head.train_cfg:
        return "it has no train_cfg, and so no losses"
    if type(head.sampler) is not imported(f"{SAMPLERS}.pseudo_sampler", "PseudoSampler"):
        return f"its anchors are drawn by {type(head.sampler).__name__}, and not all counted"
    kind = imported("mmdet.models.losses", known)
    if type(head.loss_cls) is not kind or head.cls_out_channels != head.num_classes:
        return f"its loss_cls is {type(head.loss_cls).__name__}, and no {known} of sigmoids"
    return None


def none_counts(counted: Sequence[Tensor | None]) -> bool:
    """Whether no anchor of an image counts, which mmdet calls an error."""
    return any(one is not None and not len(one) for one in counted)


def are_unusual(counted: Sequence[Tensor | None], objects: Sequence) -> bool:
    """Whether no anchor of an image counts, or boxes have a type."""
    return none_counts(counted) or any(type(one.bboxes) is not Tensor for one in objects)


def class_losses(
    head: nn.Module, scores: Sequence[Tensor], found: Assigned, total: float | Tensor
) -> list[Tensor]:
    """Of each level: losses of all anchors, those that do not count without weight."""
    return [
        head.loss_cls(level, labels, weights, avg_factor=total)
        for level, labels, weights in by_level(head, scores, *labels_of(head, found))
    ]


def by_level(
    head: nn.Module, scores: Sequence[Tensor], *values: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Of each level scores (B a, C), and values (B a,) of those (B, A) of all anchors."""
    first = 0
    for level in scores:
        level = of_level(level, head.cls_out_channels).flatten(0, 1)
        last = first + len(level) // len(values[0])
        yield level, *(one[:, first:last].flatten() for one in values)
        first = last


def labels_of(head: nn.Module, found: Assigned) -> tuple[Tensor, Tensor]:
    """Labels and weights (B, A) of all anchors; those that do not count have no weight."""
    images = zip(found.numbers, found.objects, strict=True)
    labels, weights = zip(*(_labels(head, *image) for image in images), strict=True)
    return torch.stack(labels), torch.stack(weights)


def _labels(head: nn.Module, numbers: Tensor, objects) -> tuple[Tensor, Tensor]:
    """Labels and weights (A,) of all anchors of an image."""
    has_object = numbers > 0
    labels = torch.full_like(numbers, head.num_classes)
    if len(objects.labels):
        labels = torch.where(has_object, objects.labels[(numbers - 1).clamp(min=0)], labels)
    weights = (numbers >= 0).float()
    if head.train_cfg["pos_weight"] > 0:
        weights = torch.where(has_object, head.train_cfg["pos_weight"], weights)
    return labels, weights
