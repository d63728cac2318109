"""Kernels of resized scores against float64: on a GPU, or small in an interpreter."""

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import assert_as_good, relative_error
from helpers.kernels import DEVICE, gpu  # skips first where no kernel can run

from swin_backbone import ops
from swin_backbone.ops import fused

IGNORED = 255
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


def draw(classes, low, size, labels, dtype):
    x = (3 * torch.randn(2, classes, *low, device=DEVICE)).to(dtype)
    y = torch.randint(0, labels, (2, *size), device=DEVICE)
    y[torch.rand(y.shape, device=DEVICE) < 0.2] = IGNORED
    return x, y


def gradient(loss, x):
    """The same random gradient of the loss for all."""
    grad = torch.rand(loss.shape, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad(loss, x, grad.to(loss))[0]


def run(x, y, sigmoid, impl, **options):
    x = x.detach().requires_grad_()
    function = ops.resized_binary_cross_entropy if sigmoid else ops.resized_cross_entropy
    loss, correct = function(x, y, ignore_index=IGNORED, impl=impl, **options)
    return loss.detach(), gradient(loss, x), correct


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
    """float32, 1e-5; a loss near zero, as that of one class, to 1e-6 of the scores."""
    classes, low, size = sizes
    options = with_weights(options, classes, size)
    x, y = draw(classes, low, size, 2 if sigmoid and classes == 1 else classes, torch.float32)
    kernels, again = (run(x, y, sigmoid, "triton", **options) for _ in range(2))
    exact = run(x.double(), y, sigmoid, "reference", **options)
    for actual, expected in zip(kernels[:2], exact[:2], strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=3e-6)
    assert kernels[2] == exact[2]
    assert all(map(torch.equal, kernels, again))


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "sizes", [(150, (32, 32), (128, 128)), (19, (33, 17), (100, 51)), (1000, (8, 8), (32, 64))]
)
@pytest.mark.parametrize("align_corners", [False, True])
def test_losses_on_a_card(dtype, sizes, align_corners):
    classes, low, size = sizes
    x, y = draw(classes, low, size, classes, dtype)
    options = {"align_corners": align_corners, "avg_non_ignore": True}
    kernels, again = (run(x, y, False, "triton", **options) for _ in range(2))
    exact = run(x.double(), y, False, "reference", **options)
    leaf = x.detach().requires_grad_()
    full = F.interpolate(leaf, size, mode="bilinear", align_corners=align_corners)
    loss = F.cross_entropy(full.float(), y, ignore_index=IGNORED)
    stock = [loss.detach(), gradient(loss, leaf)]
    assert_as_good(
        [relative_error(*pair) for pair in zip(kernels[:2], exact[:2], strict=True)],
        [relative_error(*pair) for pair in zip(stock, exact[:2], strict=True)],
        dtype,
    )
    assert all(map(torch.equal, kernels, again))


@gpu
@pytest.mark.gpu
def test_memory_of_a_loss():
    """Forward and backward: less than one full-size map of scores in 16 bits, 79 MB."""
    x, y = draw(150, (128, 128), (512, 512), 150, torch.bfloat16)
    x.requires_grad_()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ops.resized_cross_entropy(x, y, ignore_index=IGNORED).loss.backward()
    assert torch.cuda.max_memory_allocated() - before < 2 * 150 * 512 * 512


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
    ours = fused.resize.resize(x, *size, align_corners)
    stock = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)
    assert ours.is_contiguous(memory_format=layout)  # torch's, of few channels, is not on a GPU
    grad = gradient(ours, x)
    torch.testing.assert_close(grad, gradient(stock, x), rtol=1e-5, atol=1e-5)
    assert torch.equal(grad, gradient(fused.resize.resize(x, *size, align_corners), x))


@pytest.mark.parametrize("align_corners", [False, True])
def test_concatenated(align_corners):
    """Each map goes to its place, and its gradient comes from there."""
    maps = [
        torch.randn(2, channels, *low, device=DEVICE).to(memory_format=torch.channels_last)
        for channels, low in ((3, (4, 7)), (8, (2, 3)), (5, (5, 9)))
    ]
    maps = [x.requires_grad_() for x in maps]
    ours = fused.resize.concatenate(maps, (4, 7), align_corners)
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
    ours = fused.resize.add(base, x, align_corners)
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
