"""Kernels of resized scores against float64: on a GPU, or small in an interpreter."""

import pytest
import torch
import torch.nn.functional as F
from helpers.resized_cases import draw, gradient, run
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run

from swin_backbone import ops
from swin_backbone.ops import triton

#: For an interpreter, few pixels: up, down, and more columns than a block has.
SIZES = [(5, (3, 5), (7, 13)), (1, (2, 2), (5, 8)), (9, (5, 5), (4, 3)), (2, (1, 34), (2, 40))]
OPTIONS = [
    {},
    {"align_corners": True, "avg_non_ignore": True},
    {"reduction": "none", "pixel_weight": True},
    {"class_weight": True, "reduction": "sum"},
    {"class_weight": True, "label_smoothing": 0.2},
    {"label_smoothing": 0.1, "pixel_weight": True, "avg_factor": 3.0},
]
CASES = [(SIZES[i % len(SIZES)], options) for i, options in enumerate(OPTIONS)]


@pytest.fixture(autouse=True)
def poisoned():
    """Fresh memory is filled with NaN, so that what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def with_weights(options, classes, size):
    weights = {"class_weight": (classes,), "pixel_weight": (2, *size)}
    return {
        name: torch.rand(weights[name], device=DEVICE) + 0.5 if value is True and name in weights
        else value for name, value in options.items()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "options", "sigmoid"),
    [(*case, False) for case in CASES] + [(*case, True) for case in CASES[1:4]],
)
def test_losses(sizes, options, sigmoid):
    """float32, 1e-5; a loss near zero, as that of one class, to 1e-6 of the scores, and a gradient
    whose terms cancel to as much of these: of weights, and of pixels that a score is resized to."""
    classes, low, size = sizes
    options = with_weights(options, classes, size)
    x, y = draw(classes, low, size, 2 if sigmoid and classes == 1 else classes, torch.float32)
    kernels, again = (run(x, y, sigmoid, "triton", **options) for _ in range(2))
    exact = run(x.double(), y, sigmoid, "reference", **options)
    terms = max(1.0, exact[1].abs().max().item())
    for actual, expected, scale in zip(kernels[:2], exact[:2], (1.0, terms), strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=3e-6 * scale)
    assert kernels[2] == exact[2]
    assert all(map(torch.equal, kernels, again))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("channels", "low", "size"), [(5, (3, 5), (7, 13)), (2, (1, 1), (3, 4)), (3, (6, 5), (4, 3))]
)
def test_resize(channels, low, size, align_corners, last):
    """float32, a few roundings: 1e-5."""
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(2, channels, *low, device=DEVICE).contiguous(memory_format=layout)
    x.requires_grad_()
    ours = triton.resize_op.resize(x, *size, align_corners)
    stock = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)
    if low != (1, 1):  # one pixel lies both ways; torch's, of few channels, is not so on a GPU
        assert ours.is_contiguous(memory_format=layout)
    grad = gradient(ours, x)
    torch.testing.assert_close(grad, gradient(stock, x), rtol=1e-5, atol=1e-5)
    assert torch.equal(grad, gradient(triton.resize_op.resize(x, *size, align_corners), x))


@pytest.mark.parametrize("align_corners", [False, True])
def test_concatenated(align_corners):
    """Each map goes to its place, and its gradient comes from there."""
    maps = [
        torch.randn(2, channels, *low, device=DEVICE).to(memory_format=torch.channels_last)
        for channels, low in ((3, (4, 7)), (8, (2, 3)), (5, (5, 9)))
    ]
    maps = [x.requires_grad_() for x in maps]
    ours = triton.resize_op.concatenate(maps, (4, 7), align_corners)
    resized = [
        x if x.shape[2:] == (4, 7)
        else F.interpolate(x, (4, 7), mode="bilinear", align_corners=align_corners)
        for x in maps
    ]  # fmt: skip
    stock = torch.cat(resized, 1)
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ops.concatenate_resized(maps, (4, 7), align_corners), stock)
    grad = torch.randn(ours.shape, device=DEVICE).to(memory_format=torch.channels_last)
    found, wanted = (torch.autograd.grad(out, maps, grad) for out in (ours, stock))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_added(align_corners):
    base, x = (
        torch.randn(2, 6, *size, device=DEVICE).to(memory_format=torch.channels_last)
        for size in ((5, 7), (3, 4))
    )
    maps = [base.requires_grad_(), x.requires_grad_()]
    ours = triton.resize_op.add(base, x, align_corners)
    stock = base + F.interpolate(x, (5, 7), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ops.add_resized(base, x, align_corners), stock)
    grad = torch.randn(ours.shape, device=DEVICE).to(memory_format=torch.channels_last)
    found, wanted = (torch.autograd.grad(out, maps, grad) for out in (ours, stock))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize(
    "geometry",
    [
        ops.Geometry((12, 20)),
        ops.Geometry((12, 20), (1, 2, 0, 3), "horizontal", (11, 21)),
        ops.Geometry((12, 20), (0, 0, 2, 0), "vertical", (5, 25), True),
        ops.Geometry((12, 20), (0, 4, 0, 2), None, (10, 16)),
    ],
)
def test_class_map(classes, geometry):
    """Where the two best scores lie 1e-5 apart, rounding decides."""
    x = torch.randn(2, classes, 3, 5, device=DEVICE)
    threshold = 0.4 if classes == 1 else None
    options = {"threshold": threshold, "with_scores": True}
    ours = ops.resized_argmax(x, geometry, impl="triton", **options)
    scores = ops.resized_scores(x, geometry)
    exact = ops.resized_argmax(x, geometry, impl="reference", **options)
    torch.testing.assert_close(ours.scores, exact.scores, rtol=1e-5, atol=1e-5)
    if classes == 1:
        clear = (scores.sigmoid()[:, 0] - threshold).abs() > 1e-5
    else:
        best, second = scores.topk(2, 1)[0].unbind(1)
        clear = best - second > 1e-5
    assert torch.equal(ours.classes[clear], exact.classes[clear])
