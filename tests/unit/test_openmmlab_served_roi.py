"""RoI pooling, and RoI align of rotated boxes, against their definitions."""

import math

import pytest
import torch
from helpers.served_ops import (
    assert_as_compiled,
    on_devices,
    pixel,
    random_boxes,
    random_rotated_boxes,
    serve,
    with_ops,
)
from mmcv import ops

MODULES = ("roi_pool", "roi_align_rotated")
SCALE = 0.25


@pytest.fixture
def served(monkeypatch):
    serve(monkeypatch, *MODULES)


def of_images(boxes, batch=2):
    """Boxes with the index of an image in front."""
    return torch.cat([torch.randint(batch, (len(boxes), 1)).to(boxes), boxes], dim=1)


def random_rois(count):
    return of_images(random_boxes(count, side=50) - 4)  # some stick out


def random_rotated_rois(count):
    return of_images(random_rotated_boxes(count, side=44))


def slow_roi_pool(features, rois, size):
    out = torch.zeros(len(rois), features.shape[1], *size, dtype=features.dtype)
    for k, (index, x1, y1, x2, y2) in enumerate(rois.tolist()):
        height, width = (y2 + 1 - y1) * SCALE, (x2 + 1 - x1) * SCALE
        for i in range(size[0]):
            for j in range(size[1]):
                top, left = y1 * SCALE + i * height / size[0], x1 * SCALE + j * width / size[1]
                rows = range(math.floor(top), math.ceil(top + height / size[0]))
                columns = range(math.floor(left), math.ceil(left + width / size[1]))
                pixels = [
                    features[int(index), :, row, column]
                    for row in rows
                    for column in columns
                    if 0 <= row < features.shape[2] and 0 <= column < features.shape[3]
                ]
                if pixels:
                    out[k, :, i, j] = torch.stack(pixels).amax(0)
    return out


@pytest.mark.usefixtures("served")
@on_devices
@pytest.mark.parametrize("size", [(3, 2), (1, 1), (7, 7)])
def test_roi_pool(device, size):
    features, rois = torch.randn(2, 3, 10, 12, dtype=torch.float64), random_rois(12)
    rois[0, 1:] = torch.tensor([-60, -60, -50, -50])  # nothing of it on the map
    expected = slow_roi_pool(features, rois, size)
    assert (expected == 0).any()
    found = ops.RoIPool(size, SCALE)(features.to(device), rois.to(device))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("served")
def test_a_box_without_area_pools_nothing():
    features = torch.rand(1, 2, 6, 6, requires_grad=True)
    found = ops.roi_pool(features, torch.tensor([[0.0, 5, 5, 3, 3]]), (2, 2), 1.0)
    found.sum().backward()
    assert found.abs().sum() == 0
    assert features.grad.abs().sum() == 0


@pytest.mark.usefixtures("served")
def test_roi_pool_gradient():
    # A permutation: no two values so near that a step of gradcheck exchanges them.
    features = torch.randperm(84).double().view(2, 2, 3, 7).requires_grad_()
    rois = random_rois(4)
    assert torch.autograd.gradcheck(lambda x: ops.roi_pool(x, rois, (2, 3), SCALE), features)


def bilinear_to_the_border(image, y, x):
    """(C,) at a point of (C, H, W): up to a pixel outside the border's value, beyond that 0."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros_like(image[:, 0, 0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    return sum(
        (1 - abs(y - row)) * (1 - abs(x - column)) * pixel(image, row, column)
        for row in (top, top + 1)
        for column in (left, left + 1)
        if abs(y - row) < 1 and abs(x - column) < 1
    )


def slow_roi_align_rotated(features, rois, size, samples, aligned, clockwise):
    out = torch.zeros(len(rois), features.shape[1], *size, dtype=features.dtype)
    for k, (index, *box, angle) in enumerate(rois.tolist()):
        x0, y0, width, height = (value * SCALE for value in box)
        if aligned:
            x0, y0 = x0 - 0.5, y0 - 0.5
        else:
            width, height = max(width, 1), max(height, 1)
        angle = angle if clockwise else -angle
        rows = samples or math.ceil(height / size[0])
        columns = samples or math.ceil(width / size[1])
        for i in range(size[0] * rows):
            for j in range(size[1] * columns):
                y = ((i + 0.5) / (size[0] * rows) - 0.5) * height
                x = ((j + 0.5) / (size[1] * columns) - 0.5) * width
                out[k, :, i // rows, j // columns] += bilinear_to_the_border(
                    features[int(index)],
                    y0 + x * math.sin(angle) + y * math.cos(angle),
                    x0 + x * math.cos(angle) - y * math.sin(angle),
                ) / (rows * columns)
    return out


@pytest.mark.usefixtures("served")
@on_devices
@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align_rotated(device, samples, aligned, clockwise):
    features, rois = torch.rand(2, 3, 10, 12, dtype=torch.float64), random_rotated_rois(12)
    layer = ops.RoIAlignRotated((3, 2), SCALE, samples, aligned, clockwise)
    expected = slow_roi_align_rotated(features, rois, (3, 2), samples, aligned, clockwise)
    found = layer(features.to(device), rois.to(device))
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.usefixtures("served")
def test_roi_align_rotated_on_a_map_of_one_pixel_and_without_area():
    features, rois = torch.rand(2, 3, 1, 1, dtype=torch.float64), random_rotated_rois(6)
    rois[0, 3:5] = 0
    found = ops.roi_align_rotated(features, rois, (2, 2), SCALE, 0, True, True)
    expected = slow_roi_align_rotated(features, rois, (2, 2), 0, True, True)
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_rotated_gradient(aligned):
    features = torch.rand(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = random_rotated_rois(4)
    assert torch.autograd.gradcheck(
        lambda x: ops.roi_align_rotated(x, rois, (2, 3), SCALE, 0, aligned, True), features
    )


def pool(features, rois, rotated_rois):
    return [
        ops.roi_pool(features, rois, (3, 2), SCALE),
        ops.roi_align_rotated(features, rotated_rois, (3, 2), SCALE, 0, True, True),
    ]


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype, count):
    """Also without any boxes."""
    features = torch.rand(2, 3, 10, 12).to(dtype).requires_grad_()
    rois = [rois.to(dtype) for rois in (random_rois(count), random_rotated_rois(count))]
    found = pool(features, *rois)
    exact = pool(features.detach().float(), *(x.float() for x in rois))
    for actual, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(actual, expected.to(dtype))
    sum(x.sum() for x in found).backward()
    assert features.grad.dtype == dtype
    assert (features.grad.abs().sum() > 0) == (count > 0)


@with_ops
@on_devices
@pytest.mark.parametrize("aligned", [False, True])
def test_served_ops_equal_the_compiled_ones(device, aligned, monkeypatch):
    features = torch.rand(2, 3, 10, 12, device=device)
    rois, rotated = (x.float().to(device) for x in (random_rois(9), random_rotated_rois(9)))

    def run():
        x = features.clone().requires_grad_()
        pooled = [ops.roi_align_rotated(x, rotated, (3, 2), SCALE, 0, aligned, True)]
        if device == "cuda":  # mmcv compiles its RoI pooling for GPUs only
            pooled.append(ops.roi_pool(x, rois, (3, 2), SCALE))
        return [*pooled, *torch.autograd.grad(sum(y.square().sum() for y in pooled), x)]

    assert_as_compiled(monkeypatch, MODULES, run)
