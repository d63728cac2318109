"""What tests of the served ops have in common: marks, random boxes, and slow definitions."""

import importlib
import math
from importlib.machinery import PathFinder

import mmcv
import pytest
import torch

import swin_backbone  # noqa: F401  (lets mmcv.ops import)
from swin_backbone.openmmlab import served_ops
from swin_backbone.openmmlab.mmcv_ext import EXTENSION

COMPILED = PathFinder.find_spec(EXTENSION, mmcv.__path__) is not None
with_ops = pytest.mark.skipif(not COMPILED, reason="this mmcv has no compiled ops to compare with")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
on_devices = pytest.mark.parametrize("device", DEVICES)


def serve(monkeypatch, *modules, ops=served_ops):
    """Let modules of ``mmcv.ops`` call the served ops, whether mmcv has compiled ones or not."""
    for module in modules:
        monkeypatch.setattr(importlib.import_module(f"mmcv.ops.{module}"), "ext_module", ops)


def assert_as_compiled(monkeypatch, modules, run):
    """``run()`` gives the same tensors with the compiled ops of mmcv and with the served ones."""
    compiled = run()
    serve(monkeypatch, *modules)
    # float32 sums of up to some hundred terms in another order
    for found, expected in zip(run(), compiled, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def random_boxes(count, side=40, dtype=torch.float64):
    """(count, 4), x1, y1, x2, y2."""
    corner = torch.rand(count, 2, dtype=dtype) * side
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, dtype=dtype) * side / 2], dim=1)


def random_rotated_boxes(count, side=20, dtype=torch.float64):
    """(count, 5), centre, width, height, angle in radians."""
    centre = torch.rand(count, 2, dtype=dtype) * side
    sides = 1 + torch.rand(count, 2, dtype=dtype) * side / 2
    return torch.cat([centre, sides, 7 * torch.rand(count, 1, dtype=dtype) - 3.5], dim=1)


def pixel(image, row, column):
    """(C,) of an image (C, H, W), 0 outside of it."""
    if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
        return image[:, row, column]
    return torch.zeros_like(image[:, 0, 0])


def bilinear_with_zeros(image, y, x):
    """(C,) at a point of (C, H, W) whose pixels lie at integers, with zeros around it."""
    top, left = math.floor(y), math.floor(x)
    return sum(
        (1 - abs(y - row)) * (1 - abs(x - column)) * pixel(image, row, column)
        for row in (top, top + 1)
        for column in (left, left + 1)
    )


def corners_of(box):
    """Four (x, y) of a rotated box (5,), in the order in which its outline turns clockwise."""
    x, y, width, height, angle = map(float, box)
    cos, sin = math.cos(angle), math.sin(angle)
    halves = [(-width / 2, -height / 2), (width / 2, -height / 2)]
    halves += [(-a, -b) for a, b in halves]
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in halves]


def area_of(polygon):
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in pairs)) / 2


def clip(polygon, start, end):
    """The part of a convex polygon on the inner side of an edge (Sutherland and Hodgman)."""

    def side(point):
        across = (end[0] - start[0]) * (point[1] - start[1])
        return across - (end[1] - start[1]) * (point[0] - start[0])

    kept = []
    for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if side(a) >= 0:
            kept.append(a)
        if side(a) * side(b) < 0:
            fraction = side(a) / (side(a) - side(b))
            kept.append((a[0] + fraction * (b[0] - a[0]), a[1] + fraction * (b[1] - a[1])))
    return kept


def slow_rotated_overlap(first, second, mode="iou"):
    """Overlap of two rotated boxes (5,), by cutting one along the sides of the other."""
    polygon, other = corners_of(first), corners_of(second)
    areas = [area_of(polygon), area_of(other)]
    if min(areas) == 0:
        return 0.0
    for start, end in zip(other, other[1:] + other[:1], strict=True):
        polygon = clip(polygon, start, end)
    intersection = area_of(polygon) if polygon else 0.0
    return intersection / (areas[0] if mode == "iof" else sum(areas) - intersection)
