"""Whether an exported detector finds what mmdet's own ``predict`` finds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .runtime import ExportedModel

#: Height and width of the images that are compared: none of them is the one that was traced.
#: DINO needs as many tokens as it has queries.
SIZES = ((225, 257), (301, 240), (256, 384))
#: How far the sides of the same box may lie apart, in pixels, and its scores.
PIXELS, SCORE = 1e-3, 1e-4
#: How many times PyTorch's own rounding error of a box the file's may be: the largest of some dozen
#: boxes, each with an error of its own, was up to 5 times as large.
ROUNDINGS = 8

Boxes = tuple[Tensor, Tensor, Tensor]


class Agreement(NamedTuple):
    """How two detectors agree.

    Attributes:
        found: boxes that the first one found.
        strays: boxes that one of them found and the other did not, with the same label, score and
            sides, beyond those by which rounding alone changes what PyTorch finds.
    """

    found: int
    strays: int


def agreement(
    detector: nn.Module, exported: ExportedModel, sizes: Sequence[tuple[int, int]] = SIZES
) -> Agreement:
    """Compare on random images.

    Args:
        detector: mmdet's, on the CPU.
        exported: the file made from it.
        sizes: heights and widths.
    """
    found = strays = 0
    for size in sizes:
        images = random_images(size)
        expected = stock_boxes(detector, images)
        found_there = tuple(exported(images)[:3])
        apart = _strays(expected, found_there)
        if apart:
            # An overlap or a score may lie so near a threshold that rounding decides: no file can
            # then be nearer to PyTorch than PyTorch is to the exact result.
            exact = stock_boxes(copy.deepcopy(detector).double(), images.double())
            pixels = max(PIXELS, ROUNDINGS * _rounding(expected, exact))
            apart = _strays(expected, found_there, pixels) - _strays(expected, exact, pixels)
            apart = max(apart, 0)
        found, strays = found + len(expected[0]), strays + apart
    return Agreement(found, strays)


def random_images(size: tuple[int, int]) -> Tensor:
    """(1, 3, *size): normalised, smooth shapes and noise."""
    coarse = torch.randn(1, 3, *(-(-side // 32) for side in size), device="cpu")
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return smooth + 0.2 * torch.randn(1, 3, *size, device="cpu")


def stock_boxes(detector: nn.Module, images: Tensor) -> Boxes:
    """Boxes, scores and labels that mmdet finds in (1, 3, H, W) normalised images."""
    found = stock_instances(detector, images)
    return found.bboxes, found.scores, found.labels


def stock_instances(detector: nn.Module, images: Tensor):
    """What mmdet's ``predict`` finds in (1, 3, H, W) normalised images, its ``InstanceData``."""
    from mmdet.structures import DetDataSample

    size = tuple(images.shape[2:])
    divisor = detector.data_preprocessor.pad_size_divisor
    images = F.pad(images, (0, -size[1] % divisor, 0, -size[0] % divisor))
    padded = tuple(images.shape[2:])
    shapes = {"img_shape": size, "ori_shape": size, "pad_shape": padded}
    sample = DetDataSample(
        metainfo={**shapes, "batch_input_shape": padded, "scale_factor": (1.0, 1.0)}
    )
    with torch.no_grad():
        return detector.predict(images, [sample], rescale=False)[0].pred_instances


def _rounding(rounded: Boxes, exact: Boxes) -> float:
    """By how many pixels boxes are off, those that are the same ones: of a label, within a tenth
    of a pixel."""
    distance = (rounded[0][:, None] - exact[0][None]).abs().amax(-1)
    near = distance[(rounded[2][:, None] == exact[2][None]) & (distance < 0.1)]
    return float(near.max()) if near.numel() else 0.0


def _strays(first: Boxes, second: Boxes, pixels: float = PIXELS) -> int:
    """Boxes of either that have no partner in the other."""
    boxes, scores, labels = ((a[:, None], b[None]) for a, b in zip(first, second, strict=True))
    near = (boxes[0] - boxes[1]).abs().amax(-1) <= pixels
    near &= (scores[0] - scores[1]).abs() <= SCORE
    near &= labels[0] == labels[1]
    return int((~near.any(1)).sum() + (~near.any(0)).sum())
