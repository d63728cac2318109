"""Losses on scores at a head's own size against mmseg's own losses of resized ones."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import relative_error
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.losses.accuracy import accuracy

from swin_backbone import ops
from swin_backbone.ops import banded_losses as resized_losses_tiled
from swin_backbone.ops.geometry.resampling import axis

IGNORED = 255
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: Classes, scores' size, labels' size: up, of no whole ratio, down, to one side only, from one.
SIZES = [
    (5, (5, 7), (11, 13)),
    (1, (3, 4), (12, 16)),
    (19, (9, 5), (4, 3)),
    (3, (4, 4), (4, 9)),
    (1200, (1, 2), (3, 9)),
]


@pytest.fixture(autouse=True)
def several_bands(monkeypatch):
    """Bands of one row, or a few."""
    monkeypatch.setattr(resized_losses_tiled, "BAND", 100)
    monkeypatch.setattr(resized_losses_tiled, "BAND_ON_GPU", 100)


def draw(classes, low, size, labels=None, dtype=torch.float64):
    """Scores of two images, and labels of which some are ignored: of one image, half of them."""
    x = torch.randn(2, classes, *low, dtype=dtype, device=DEVICE, requires_grad=True)
    y = torch.randint(0, labels or classes, (2, *size), device=DEVICE)
    y[0, : size[0] // 2] = IGNORED
    y[torch.rand(y.shape, device=DEVICE) < 0.1] = IGNORED
    return x, y


def ours(x, y, sigmoid, impl, **options):
    function = ops.resized_binary_cross_entropy if sigmoid else ops.resized_cross_entropy
    return function(x, y, ignore_index=IGNORED, impl=impl, **options)


def assert_same(a, b, x, tolerance):
    """Losses and their gradients, for a random gradient of the losses."""
    grad = torch.randn_like(b)
    torch.testing.assert_close(a.to(b.dtype), b, rtol=tolerance, atol=tolerance)
    (grad_a,) = torch.autograd.grad(a, x, grad.to(a.dtype))
    (grad_b,) = torch.autograd.grad(b, x, grad, retain_graph=True)
    torch.testing.assert_close(grad_a, grad_b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("classes", "low", "size"), SIZES)
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_mmsegs_losses(classes, low, size, sigmoid, align_corners):
    """1e-10 in float64; mmseg's binary loss is computed in float32 where it is: 1e-5."""
    weights = [None] if sigmoid and classes > 1 else [None, torch.rand(classes).tolist()]
    for class_weight in weights:
        for reduction in ("mean", "sum", "none"):
            for non_ignore in (False, True):
                if class_weight and non_ignore and not sigmoid:
                    continue  # fails in mmseg
                x, y = draw(classes, low, size, 2 if sigmoid and classes == 1 else None)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    loss = CrossEntropyLoss(
                        use_sigmoid=sigmoid, reduction=reduction, class_weight=class_weight,
                        avg_non_ignore=non_ignore,
                    )  # fmt: skip
                full = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
                weight = torch.rand(2, *size, device=DEVICE)  # mmseg's are float32
                expected = loss(full, y, weight=weight, ignore_index=IGNORED)
                expected = expected.sum(1) if expected.dim() == 4 else expected
                options = {"align_corners": align_corners, "reduction": reduction}
                options |= {"avg_non_ignore": non_ignore, "pixel_weight": weight}
                if class_weight:
                    options["class_weight"] = x.new_tensor(class_weight)
                for impl in ("reference", "tiled"):
                    actual, correct = ours(x, y, sigmoid, impl, **options)
                    assert_same(actual, expected, x, 1e-5 if sigmoid else 1e-10)
                    counted = (y != IGNORED).sum()
                    logged = accuracy(full, y, ignore_index=IGNORED).item()
                    assert logged == pytest.approx(100 * correct.item() / counted.item(), abs=1e-3)
                    assert ops.count_correct(full, y, IGNORED) == correct


@pytest.mark.parametrize("ignored", [2, 254, -100])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_any_number_may_be_the_ignored_one(sigmoid, ignored):
    """One of the classes too; nothing is special about 255."""
    x, y = draw(5, (4, 5), (9, 13))
    y[y == IGNORED] = ignored
    full = F.interpolate(x, (9, 13), mode="bilinear", align_corners=False)
    loss = CrossEntropyLoss(use_sigmoid=sigmoid, reduction="none", avg_non_ignore=True)
    expected = loss(full, y, ignore_index=ignored)
    expected = expected.sum(1) if expected.dim() == 4 else expected
    function = ops.resized_binary_cross_entropy if sigmoid else ops.resized_cross_entropy
    for impl in ("reference", "tiled"):
        actual, correct = function(x, y, ignore_index=ignored, impl=impl, reduction="none")
        assert_same(actual, expected, x, 1e-5 if sigmoid else 1e-10)
        assert correct == ((full.argmax(1) == y) & (y != ignored)).sum()


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_label_smoothing(smoothing, weighted):
    x, y = draw(6, (4, 5), (9, 17))
    weight = torch.rand(6, dtype=x.dtype, device=DEVICE) if weighted else None
    full = F.interpolate(x, (9, 17), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(
        full, y, weight, ignore_index=IGNORED, label_smoothing=smoothing, reduction="none"
    )
    for impl in ("reference", "tiled"):
        options = {"label_smoothing": smoothing, "class_weight": weight, "reduction": "none"}
        assert_same(ours(x, y, False, impl, **options).loss, expected, x, 1e-10)


@pytest.mark.parametrize("impl", ["reference", "tiled"])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("non_ignore", [False, True])
def test_all_ignored(impl, sigmoid, non_ignore):
    x, y = draw(4, (3, 3), (6, 6))
    loss, correct = ours(x, torch.full_like(y, IGNORED), sigmoid, impl, avg_non_ignore=non_ignore)
    assert loss == 0
    assert correct == 0
    assert not torch.autograd.grad(loss, x)[0].any()


@pytest.mark.parametrize("sigmoid", [False, True])
def test_gradient_by_differences(sigmoid):
    x, y = draw(3, (2, 3), (5, 7))
    assert torch.autograd.gradcheck(lambda x: ours(x, y, sigmoid, "tiled").loss, x)


@pytest.mark.parametrize("factor", [7.0, torch.tensor(7.0)])
def test_average_by_a_factor(factor):
    x, y = draw(3, (2, 3), (5, 7))
    total = ours(x, y, False, "reference", reduction="sum").loss
    torch.testing.assert_close(ours(x, y, False, "tiled", avg_factor=factor).loss, total / 7)


def test_layouts_and_labels():
    x, y = draw(5, (5, 7), (11, 13))
    expected = ours(x, y, False, "reference").loss
    last = x.detach().to(memory_format=torch.channels_last)
    for scores in (last, x.detach().transpose(2, 3).contiguous().transpose(2, 3)):
        for labels in (y, y.to(torch.uint8), y.int()):
            torch.testing.assert_close(ours(scores, labels, False, "auto").loss, expected)


def test_low_precision_is_computed_in_float32():
    x, y = draw(19, (8, 8), (32, 32), dtype=torch.bfloat16)
    loss = ours(x, y, False, "tiled").loss
    exact = ours(x.double(), y, False, "reference").loss
    assert loss.dtype == torch.float32
    assert relative_error(loss, exact) < 1e-5


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU is not waited for")
@pytest.mark.parametrize("label", [-1, 5])
def test_labels_that_are_no_class(label):
    x, y = draw(5, (3, 3), (6, 6))
    y[1, 2, 3] = label
    with pytest.raises(ValueError, match=f"labels must be from 0 to 4.*got {label}"):
        ours(x, y, False, "auto")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reduction": "most"}, ValueError, "reduction must be one of mean, sum, none"),
        ({"reduction": "sum", "avg_factor": 3.0}, ValueError, "avg_factor must be None"),
        ({"class_weight": torch.ones(4)}, ValueError, "class_weight must be"),
        ({"pixel_weight": torch.ones(2, 5, 6)}, ValueError, "pixel_weight must be"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing must be from 0 to 1"),
        ({"impl": "quick"}, ValueError, "impl must be one of"),
        ({"labels": torch.zeros(2, 6, 6)}, TypeError, "labels must be integers"),
        ({"labels": torch.zeros(3, 6, 6).long()}, ValueError, "labels must be"),
        ({"logits": torch.zeros(2, 5, 3)}, ValueError, "logits must be"),
        ({"logits": torch.zeros(2, 5, 3, 3).long()}, TypeError, "logits must be floating point"),
    ],
)
def test_bad_arguments(options, error, words):
    tensors = {"logits": torch.zeros(2, 5, 3, 3), "labels": torch.zeros(2, 6, 6).long()}
    with pytest.raises(error, match=words):
        ops.resized_cross_entropy(**{**tensors, **options})


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 7, 33, 128])
@pytest.mark.parametrize("positions", [1, 5, 33, 512, 1000])
def test_tables(samples, positions, align_corners):
    """An axis as F.interpolate has it; 1e-5 in float32, whose positions are rounded."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = torch.rand(samples, dtype=dtype)
        expected = F.interpolate(
            x[None, None, None], (1, positions), mode="bilinear", align_corners=align_corners
        )[0, 0, 0]
        table = axis(samples, positions, align_corners, dtype)
        lower = table.lower.long()
        upper = (lower + 1).clamp(max=samples - 1)
        mixed = x[lower] * (1 - table.weight) + x[upper] * table.weight
        torch.testing.assert_close(mixed, expected, rtol=0, atol=tolerance)
        counts = table.first.diff()
        assert torch.equal(torch.arange(samples).repeat_interleave(counts), lower)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_compiled(sigmoid):
    """In one graph, forward and backward."""
    x, y = draw(4, (3, 3), (6, 7))

    def loss_of(x):
        loss, correct = ours(x, y, sigmoid, "auto", avg_non_ignore=True)
        return 2 * loss, correct

    compiled = torch.compile(loss_of, backend="aot_eager", fullgraph=True)
    (actual, correct), (expected, right) = compiled(x), loss_of(x)
    torch.testing.assert_close(actual, expected)
    assert correct == right
    torch.testing.assert_close(
        torch.autograd.grad(actual, x)[0], torch.autograd.grad(expected, x)[0]
    )
