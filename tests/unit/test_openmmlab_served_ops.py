"""The ops that serve detectors where mmcv has none: what they mean, and their gradients.

Each is called through ``mmcv.ops``, as detectors call it, and compared with its definition written
out slowly. Where a compiled mmcv is installed, served ops are compared with the compiled ones
instead, in the dtypes that those take (float32 on a CPU, whose focal loss is not compiled).
"""

import ast
import importlib
import math
import re
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT

import swin_backbone  # noqa: F401  (lets mmcv.ops import)
from swin_backbone.openmmlab import served_ops
from swin_backbone.openmmlab.mmcv_ext import EXTENSION
from swin_backbone.openmmlab.served_ops import SERVED, UnsupportedOptionError, suppression

mmcv = pytest.importorskip("mmcv")
pytest.importorskip("torchvision")
ops = importlib.import_module("mmcv.ops")

COMPILED = PathFinder.find_spec(EXTENSION, mmcv.__path__) is not None
with_ops = pytest.mark.skipif(not COMPILED, reason="this mmcv has no compiled ops to compare with")
without_ops = pytest.mark.skipif(COMPILED, reason="this mmcv has compiled ops")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def device(request):
    """CPU, unless a test is parametrised with another device."""
    name = getattr(request, "param", "cpu")
    torch.manual_seed(torch.seed() % 2**32)
    print("seed", torch.initial_seed())
    return name


on_devices = pytest.mark.parametrize("device", DEVICES, indirect=True)


def random_boxes(count, side=40, dtype=torch.float64):
    corner = torch.rand(count, 2, dtype=dtype) * side
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, dtype=dtype) * side / 2], dim=1)


def overlap(a, b, offset=0):
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_nms(boxes, scores, threshold, offset):
    kept = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(overlap(boxes[index], boxes[k], offset) <= threshold for k in kept):
            kept.append(index)
    return kept


@without_ops
@on_devices
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms(device, dtype, offset):
    boxes, scores = random_boxes(60, dtype=dtype), torch.rand(60, dtype=dtype)
    found, indices = ops.nms(boxes.to(device), scores.to(device), 0.4, offset=offset)
    expected = slow_nms(boxes.tolist(), scores.tolist(), 0.4, offset)
    assert 1 < len(expected) < 60
    assert indices.tolist() == expected
    torch.testing.assert_close(found.cpu(), torch.cat([boxes, scores[:, None]], 1)[expected])


@on_devices
@pytest.mark.parametrize("tenths", range(1, 10))
def test_nms_compares_with_a_threshold_in_float32(device, tenths):
    """As mmcv's compiled op does, on a CPU too: an overlap of 3/10 is not above 0.3."""
    boxes = torch.tensor([[0, 0, 10, 1], [0, 0, tenths, 1.0]], device=device)
    scores, threshold = torch.tensor([0.9, 0.8], device=device), torch.tensor(tenths / 10)
    assert len(suppression.nms(boxes, scores, tenths / 10, 0)) == 2
    below = threshold.nextafter(torch.tensor(0.0)).item()
    assert len(suppression.nms(boxes, scores, below, 0)) == 1


@without_ops
def test_nms_options_that_mmdet_uses():
    boxes, scores = random_boxes(40), torch.rand(40)
    expected = [i for i in slow_nms(boxes.tolist(), scores.tolist(), 0.5, 0) if scores[i] > 0.3]
    _, indices = ops.nms(boxes, scores.double(), 0.5, score_threshold=0.3, max_num=5)
    assert indices.tolist() == expected[:5]
    for empty in (
        ops.nms(boxes[:0], scores[:0].double(), 0.5),
        ops.soft_nms(boxes[:0], scores[:0]),
    ):
        assert [len(part) for part in empty] == [0, 0]


@without_ops
@pytest.mark.parametrize("split_thr", [10000, 10])
def test_batched_nms_keeps_classes_apart(split_thr):
    boxes, scores = random_boxes(50), torch.rand(50, dtype=torch.float64)
    classes = torch.randint(3, (50,))
    config = {"type": "nms", "iou_threshold": 0.3, "split_thr": split_thr}
    found, kept = ops.batched_nms(boxes, scores, classes, config)
    expected = []
    for label in range(3):
        inside = (classes == label).nonzero()[:, 0]
        local = slow_nms(boxes[inside].tolist(), scores[inside].tolist(), 0.3, 0)
        expected += inside[local].tolist()
    assert kept.tolist() == sorted(expected, key=lambda i: -scores[i])
    torch.testing.assert_close(found[:, :4], boxes[kept])


def slow_soft_nms(boxes, scores, threshold, sigma, min_score, method):
    scores, remaining, kept = list(scores), list(range(len(scores))), []
    while remaining:
        best = max(remaining, key=lambda i: scores[i])
        kept.append((best, scores[best]))
        remaining.remove(best)
        for i in remaining:
            o = overlap(boxes[best], boxes[i])
            if method == "gaussian":
                scores[i] *= math.exp(-o * o / sigma)
            elif o >= threshold:
                scores[i] *= 0 if method == "naive" else 1 - o
        remaining = [i for i in remaining if scores[i] >= min_score]
    return kept


@without_ops
@pytest.mark.parametrize("pairs", [2**24, 100], ids=["at once", "one by one"])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(method, pairs, monkeypatch):
    monkeypatch.setattr(suppression, "PAIRS", pairs)
    boxes, scores = random_boxes(40), torch.rand(40, dtype=torch.float64)
    found, indices = ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method)
    expected = slow_soft_nms(boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.05, method)
    assert indices.tolist() == [index for index, _ in expected]
    torch.testing.assert_close(found[:, :4], boxes[indices])
    torch.testing.assert_close(found[:, 4].tolist(), [score for _, score in expected])


def bilinear(features, y, x):
    """(C,) at a point of (C, H, W) whose pixels lie at integers; nothing from beyond a pixel."""
    height, width = features.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros_like(features[:, 0, 0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * features[:, top, left] + across * features[:, top, right]
    lower = (1 - across) * features[:, bottom, left] + across * features[:, bottom, right]
    return (1 - down) * upper + down * lower


def slow_roi_align(features, rois, size, scale, samples, aligned):
    """Mean over a grid of samples in each bin, as the documentation of torchvision says."""
    out = torch.zeros(len(rois), features.shape[1], *size, dtype=features.dtype)
    for k, (index, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (value * scale - (0.5 if aligned else 0) for value in box)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        bin_height, bin_width = height / size[0], width / size[1]
        rows = samples or math.ceil(bin_height)
        columns = samples or math.ceil(bin_width)
        for i in range(size[0]):
            for j in range(size[1]):
                points = [
                    bilinear(
                        features[int(index)],
                        y1 + (i + (r + 0.5) / rows) * bin_height,
                        x1 + (j + (c + 0.5) / columns) * bin_width,
                    )
                    for r in range(rows)
                    for c in range(columns)
                ]
                out[k, :, i, j] = torch.stack(points).mean(0)
    return out


def random_rois(count, batch=2):
    index = torch.randint(batch, (count, 1)).double()
    return torch.cat([index, random_boxes(count, side=30) - 2], dim=1)  # some stick out


@on_devices
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align(device, samples, aligned):
    features, rois = torch.rand(2, 3, 10, 12, dtype=torch.float64), random_rois(6)
    layer = ops.RoIAlign((3, 2), 0.25, samples, aligned=aligned)
    expected = slow_roi_align(features, rois, (3, 2), 0.25, samples, aligned)
    torch.testing.assert_close(layer(features.to(device), rois.to(device)).cpu(), expected)


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_gradient(aligned):
    features = torch.rand(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = random_rois(3)
    assert torch.autograd.gradcheck(
        lambda x: ops.roi_align(x, rois, (2, 3), 0.25, 0, "avg", aligned), features
    )


@without_ops
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_in_half_precision_keeps_its_boxes(dtype):
    """Coordinates of a thousand pixels have no fraction left in 16 bits."""
    features, rois = torch.rand(2, 3, 10, 12), random_rois(6).float()
    half = features.to(dtype).requires_grad_()
    pooled = ops.roi_align(half, rois, (2, 2), 0.25, 0, "avg", True)
    expected = ops.roi_align(half.detach().float(), rois, (2, 2), 0.25, 0, "avg", True)
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled, expected.to(dtype))
    pooled.sum().backward()
    assert half.grad.dtype == dtype
    assert half.grad.abs().sum() > 0


def test_roi_align_with_max_pooling_says_what_there_is():
    arguments = (torch.rand(1, 2, 8, 8), torch.tensor([[0, 1, 1, 5, 5.0]]), (2, 2), 1.0, 0)
    if COMPILED:
        assert ops.roi_align(*arguments, "max", True).shape == (1, 2, 2, 2)
    else:
        with pytest.raises(UnsupportedOptionError, match="pool_mode='avg'"):
            ops.roi_align(*arguments, "max", True)


def slow_focal_loss(logits, targets, gamma, alpha):
    p = logits.sigmoid()
    own = torch.nn.functional.one_hot(targets, logits.shape[1] + 1)[:, :-1].bool()
    return torch.where(
        own, -alpha * (1 - p) ** gamma * p.log(), -(1 - alpha) * p**gamma * (1 - p).log()
    )


@without_ops
@on_devices
def test_sigmoid_focal_loss(device):
    logits = 3 * torch.randn(20, 4, dtype=torch.float64)
    targets = torch.randint(5, (20,))  # 4 is the background
    expected = slow_focal_loss(logits, targets, 2.0, 0.25)
    for reduction, value in [("none", expected), ("sum", expected.sum())]:
        found = ops.sigmoid_focal_loss(
            logits.to(device), targets.to(device), 2.0, 0.25, None, reduction
        )
        torch.testing.assert_close(found.cpu(), value)
    # mmcv's mean is over rows, not over elements.
    mean = ops.sigmoid_focal_loss(logits.to(device), targets.to(device), 2.0, 0.25, None, "mean")
    torch.testing.assert_close(mean.cpu(), expected.sum() / 20)


@without_ops
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sigmoid_focal_loss_gradient(reduction):
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(5, (6,))
    assert torch.autograd.gradcheck(
        lambda x: ops.sigmoid_focal_loss(x, targets, 2.0, 0.25, None, reduction), logits
    )


@without_ops
def test_sigmoid_focal_loss_with_weights_of_classes():
    logits, targets = torch.randn(20, 4, dtype=torch.float64), torch.randint(4, (20,))
    weight = torch.rand(4, dtype=torch.float64)
    found = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, weight, "none")
    expected = slow_focal_loss(logits, targets, 2.0, 0.25) * weight[targets][:, None]
    torch.testing.assert_close(found, expected)


@without_ops
def test_background_has_no_weight():
    with pytest.raises(UnsupportedOptionError, match="targets from 0 to 3"):
        ops.sigmoid_focal_loss(
            torch.randn(2, 4), torch.tensor([1, 4]), 2.0, 0.25, torch.ones(4), "sum"
        )


def softmax_focal_loss(logits, targets, gamma, alpha, weight):
    """Of rows; those with negative targets have none."""
    log_p = logits.log_softmax(1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    factor = (targets >= 0) * (1 if weight is None else weight[targets.clamp(min=0)])
    return -alpha * factor * (1 - log_p.exp()) ** gamma * log_p


@without_ops
@on_devices
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_focal_loss(device, weighted, gamma):
    logits = (3 * torch.randn(20, 4, dtype=torch.float64)).to(device).requires_grad_()
    targets = torch.randint(-1, 4, (20,), device=device)
    weight = torch.rand(4, dtype=torch.float64, device=device) if weighted else None
    expected = softmax_focal_loss(logits, targets, gamma, 0.25, weight)
    found = ops.softmax_focal_loss(logits, targets, gamma, 0.25, weight, "none")
    torch.testing.assert_close(found, expected)
    for reduction, value in [("sum", expected.sum()), ("mean", expected.mean())]:
        found = ops.softmax_focal_loss(logits, targets, gamma, 0.25, weight, reduction)
        torch.testing.assert_close(found, value)
        gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (found, value)]
        torch.testing.assert_close(*gradients)


@without_ops
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("sure_of", [0, 1])
def test_softmax_focal_loss_of_a_sure_model_is_finite(sure_of, gamma):
    logits = torch.tensor([[200.0, 0]], requires_grad=True)
    loss = ops.softmax_focal_loss(logits, torch.tensor([sure_of]), gamma, 0.25, None, "sum")
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@without_ops
def test_softmax_focal_loss_without_rows():
    logits = torch.zeros(0, 4, requires_grad=True)
    ops.softmax_focal_loss(
        logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum"
    ).backward()
    assert logits.grad.shape == (0, 4)


def deformable_inputs():
    shapes = torch.tensor([(4, 5), (2, 3)])
    starts = torch.tensor([0, 20])
    value = torch.rand(2, 26, 2, 4, dtype=torch.float64)
    locations = torch.rand(2, 3, 2, 2, 2, 2, dtype=torch.float64)
    weights = torch.rand(2, 3, 2, 2, 2, dtype=torch.float64)
    return value, shapes, starts, locations, weights


@on_devices
def test_deformable_attention_on_any_device_is_the_mean_of_samples(device):
    value, shapes, starts, locations, weights = deformable_inputs()
    expected = torch.zeros(2, 3, 2, 4, dtype=torch.float64)
    for b, q, head, level, point in torch.cartesian_prod(
        *map(torch.arange, (2, 3, 2, 2, 2))
    ).tolist():
        (rows, columns), start = shapes[level].tolist(), starts[level].item()
        part = value[b, start : start + rows * columns, head].T.reshape(4, rows, columns)
        x, y = locations[b, q, head, level, point].tolist()
        # Pixels beyond the border are zero.
        sample = bilinear(
            torch.nn.functional.pad(part, (1, 1, 1, 1)), y * rows + 0.5, x * columns + 0.5
        )
        expected[b, q, head] += weights[b, q, head, level, point] * sample
    arguments = [x.to(device) for x in (value, shapes, starts, locations, weights)]
    found = served_ops.ms_deform_attn_forward(*arguments, im2col_step=64)
    torch.testing.assert_close(found.cpu(), expected.flatten(2))


def test_deformable_attention_gradient():
    value, shapes, starts, locations, weights = deformable_inputs()
    grad = torch.rand(2, 3, 8, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    output = served_ops.ms_deform_attn_forward(value, shapes, starts, locations, weights, 64)
    expected = torch.autograd.grad(output, inputs, grad)
    written = [torch.empty_like(x) for x in inputs]
    served_ops.ms_deform_attn_backward(
        value, shapes, starts, locations, weights, grad, *written, im2col_step=64
    )
    for found, gradient in zip(written, expected, strict=True):
        torch.testing.assert_close(found, gradient)


def ops_that_mmcv_asks_for():
    """Names in every ``load_ext`` of ``mmcv.ops``."""
    calls = [
        node
        for file in Path(ops.__path__[0]).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load_ext"
    ]
    return {name for call in calls for name in ast.literal_eval(call.args[1])}


def test_the_documentation_lists_what_is_not_served():
    asked_for = ops_that_mmcv_asks_for()
    assert set(SERVED) <= asked_for
    not_ops = {"get_compiler_version", "get_compiling_cuda_version"}
    missing = asked_for - set(SERVED) - not_ops
    assert len(missing) > 50
    page = (ROOT / "docs/installation.md").read_text()
    listed = page.split("these are not served:")[1].split(".")[0]
    # Passes of one op are one op.
    names = {re.sub(r"_(forward|backward).*", "", name) for name in missing}
    if "line_nms_forward" not in asked_for:  # the maintained line's mmcv has this one beside
        names.add("line_nms")
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(names)


@without_ops
def test_what_is_served_is_what_mmcv_gets():
    extension = importlib.import_module(EXTENSION)
    for name, op in SERVED.items():
        assert getattr(extension, name) is op


@with_ops
@on_devices
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [0, 2])
def test_served_ops_equal_the_compiled_ones(device, samples, aligned, monkeypatch):
    boxes, scores = random_boxes(200).float().to(device), torch.rand(200, device=device)
    classes = torch.randint(3, (200,), device=device)
    features = torch.rand(2, 8, 20, 24, device=device)
    rois = random_rois(30).float().to(device)
    logits, targets = torch.randn(50, 4, device=device), torch.randint(5, (50,), device=device)

    def run():
        x, y = features.clone().requires_grad_(), logits.clone().requires_grad_()
        pooled = ops.roi_align(x, rois, (7, 7), 0.25, samples, "avg", aligned)
        losses = [pooled.square().sum()]
        if device == "cuda":  # mmcv compiles its focal loss for GPUs only
            losses.append(ops.sigmoid_focal_loss(y, targets, 2.0, 0.25, None, "sum"))
            losses.append(ops.softmax_focal_loss(y, targets % 4, 2.0, 0.25, None, "sum"))
        gradients = torch.autograd.grad(sum(losses), [x, y][: len(losses)])
        batched = [
            ops.batched_nms(boxes, scores, classes, {"type": name, "iou_threshold": 0.4})
            for name in ("nms", "soft_nms")
        ]
        return [
            *(part for offset in (0, 1) for part in ops.nms(boxes, scores, 0.5, offset)),
            *(
                part
                for method in ("naive", "linear", "gaussian")
                for part in ops.soft_nms(boxes, scores, 0.5, method=method)
            ),
            *(part for found in batched for part in found),
            pooled,
            *losses,
            *gradients,
        ]

    compiled = run()
    for module in ("nms", "roi_align", "focal_loss"):
        monkeypatch.setattr(importlib.import_module(f"mmcv.ops.{module}"), "ext_module", served_ops)
    # float32 sums of up to 400 samples in another order
    for found, expected in zip(run(), compiled, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
