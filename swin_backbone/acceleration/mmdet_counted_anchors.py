"""Which of a head's anchors count in an image, and predictions in the order of anchors.

mmdet makes flags of all anchors of each image and asks the device whether there are any. Where no
anchor is left out nobody is asked; else once for each size of images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


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


def flat_predictions(maps: Sequence[Tensor], channels: int) -> Tensor:
    """(B anchors, channels): predictions image by image, as anchors are numbered."""
    return torch.cat(
        [x.permute(0, 2, 3, 1).reshape(len(x), -1, channels) for x in maps], 1
    ).flatten(0, 1)
