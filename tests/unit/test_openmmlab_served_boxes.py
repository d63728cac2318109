"""Overlaps of boxes and suppression of those that overlap, against their definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.served_ops import (
    assert_as_compiled,
    on_devices,
    random_boxes,
    random_rotated_boxes,
    serve,
    slow_rotated_overlap,
    with_ops,
)
from mmcv import ops

MODULES = ("bbox", "box_iou_rotated", "nms")


@pytest.fixture
def served(monkeypatch):
    serve(monkeypatch, *MODULES)


def slow_overlap(a, b, mode, offset):
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (areas[0] if mode == "iof" else sum(areas) - width * height)


def compare(overlaps, slow, first, second, **options):
    """All with all, and pair by pair."""
    expected = [[slow(a, b) for b in second.tolist()] for a in first.tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    found = overlaps(first, second, **options)
    assert found.shape == (len(first), len(second))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    count = min(len(first), len(second))
    aligned = overlaps(first[:count], second[:count], aligned=True, **options)
    torch.testing.assert_close(aligned, found[:count, :count].diagonal())


@pytest.mark.usefixtures("served")
@on_devices
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_overlaps_of_upright_boxes(device, mode, offset):
    first, second = random_boxes(20), random_boxes(30)

    def overlaps(a, b, **options):
        return ops.bbox_overlaps(a.to(device), b.to(device), mode, offset=offset, **options).cpu()

    compare(overlaps, lambda a, b: slow_overlap(a, b, mode, offset), first, second)


@pytest.mark.usefixtures("served")
@on_devices
@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_overlaps_of_rotated_boxes(device, mode, clockwise):
    first, second = random_rotated_boxes(20), random_rotated_boxes(30)
    turn = 1 if clockwise else -1

    def slow(a, b):
        return slow_rotated_overlap((*a[:4], turn * a[4]), (*b[:4], turn * b[4]), mode)

    def overlaps(a, b, **options):
        return ops.box_iou_rotated(
            a.to(device), b.to(device), mode, clockwise=clockwise, **options
        ).cpu()

    compare(overlaps, slow, first, second)


@pytest.mark.usefixtures("served")
def test_overlaps_of_rotated_boxes_that_touch_or_coincide():
    """Equal sides, equal corners, one inside the other, no area: where an intersection of outlines
    has no single answer, the area still has one."""
    sides, centres = [(4, 2), (2, 2), (8, 8), (0, 2)], [(0, 0), (2, 0), (4, 2), (1, 1)]
    angles = [k * math.pi / 4 for k in range(-2, 5)]
    boxes = torch.tensor(
        [(*c, *s, a) for c, s, a in itertools.product(centres, sides, angles)], dtype=torch.float64
    )
    expected = [[slow_rotated_overlap(a, b) for b in boxes.tolist()] for a in boxes.tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    found = ops.box_iou_rotated(boxes, boxes)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    # Twelve digits of a float64 and seven of a float32: the area has no jumps.
    found = ops.box_iou_rotated(boxes.float(), boxes.float())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("served")
def test_overlaps_are_taken_in_parts(monkeypatch):
    from swin_backbone.openmmlab.served_ops import overlaps

    first, second = random_rotated_boxes(7), random_rotated_boxes(5)
    whole = ops.box_iou_rotated(first, second)
    monkeypatch.setattr(overlaps, "PAIRS", 11)
    torch.testing.assert_close(ops.box_iou_rotated(first, second), whole)


@pytest.mark.usefixtures("served")
def test_no_boxes():
    upright, rotated = random_boxes(3), random_rotated_boxes(3)
    for overlaps, boxes in [(ops.bbox_overlaps, upright), (ops.box_iou_rotated, rotated)]:
        assert overlaps(boxes[:0], boxes).shape == (0, 3)
        assert overlaps(boxes, boxes[:0]).shape == (3, 0)
        assert overlaps(boxes[:0], boxes[:0], aligned=True).shape == (0,)
    assert ops.nms_match(torch.zeros(0, 5), 0.5) == []
    kept, indices = ops.nms_rotated(rotated[:0], torch.zeros(0), 0.5)
    assert len(kept) == 0
    assert indices is None


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_overlaps_in_half_precision_are_rounded_once(dtype):
    for overlaps, boxes in [
        (ops.bbox_overlaps, random_boxes(20)),
        (ops.box_iou_rotated, random_rotated_boxes(20)),
    ]:
        half = boxes.to(dtype)
        exact = overlaps(half.float(), half.float())
        torch.testing.assert_close(overlaps(half, half), exact.to(dtype))


def slow_groups(scores, suppresses):
    """Kept boxes, best first, each with those that it suppresses."""
    remaining = sorted(range(len(scores)), key=lambda i: -scores[i])
    groups = []
    while remaining:
        best, *others = remaining
        groups.append([best, *(i for i in others if suppresses(best, i))])
        remaining = [i for i in others if i not in groups[-1]]
    return groups


@pytest.mark.usefixtures("served")
def test_matches_of_suppression():
    boxes, scores = random_boxes(50), torch.rand(50, dtype=torch.float64)
    rows = boxes.tolist()
    expected = slow_groups(scores, lambda i, j: slow_overlap(rows[i], rows[j], "iou", 0) >= 0.3)
    assert 1 < len(expected) < 50
    dets = torch.cat([boxes, scores[:, None]], 1)
    assert [group.tolist() for group in ops.nms_match(dets, 0.3)] == expected
    groups = ops.nms_match(dets.numpy(), 0.3)
    assert all(isinstance(group, np.ndarray) for group in groups)
    assert [group.tolist() for group in groups] == expected


@pytest.mark.usefixtures("served")
@on_devices
@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("labelled", [False, True])
def test_suppression_of_rotated_boxes(device, labelled, clockwise):
    boxes, scores = random_rotated_boxes(50), torch.rand(50, dtype=torch.float64)
    labels = torch.randint(2, (50,))
    turned = boxes * torch.tensor([1, 1, 1, 1, 1 if clockwise else -1])

    def suppresses(i, j):
        same = not labelled or labels[i] == labels[j]
        return same and slow_rotated_overlap(turned[i], turned[j]) > 0.3

    expected = [group[0] for group in slow_groups(scores, suppresses)]
    assert 1 < len(expected) < 50
    given = labels.to(device) if labelled else None
    found, kept = ops.nms_rotated(boxes.to(device), scores.to(device), 0.3, given, clockwise)
    assert kept.tolist() == expected
    torch.testing.assert_close(found.cpu(), torch.cat([boxes, scores[:, None]], 1)[expected])


@with_ops
@on_devices
def test_served_ops_equal_the_compiled_ones(device, monkeypatch):
    boxes, others = (random_boxes(n).float().to(device) for n in (40, 30))
    rotated, turned = (random_rotated_boxes(n).float().to(device) for n in (40, 30))
    scores = torch.rand(40, device=device)
    # On a CPU, mmcv compares boxes whatever their labels are.
    labels = torch.randint(2, (40,), device=device) if device == "cuda" else None

    def run():
        tables = [
            table
            for mode in ("iou", "iof")
            for table in (
                ops.bbox_overlaps(boxes, others, mode, offset=1),
                ops.box_iou_rotated(rotated, turned, mode),
                ops.box_iou_rotated(rotated[:30], turned, mode, aligned=True),
            )
        ]
        groups = ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.3)
        return [*tables, *groups, *ops.nms_rotated(rotated, scores, 0.3, labels)]

    assert_as_compiled(monkeypatch, MODULES, run)
