"""Multi-scale deformable attention: its definition, mmcv's and transformers', and its errors."""

import importlib

import pytest
import torch
from helpers.points import CASES, PointCase, draw, with_gradients

from swin_backbone import ops

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def of(impl):
    def function(*arguments):
        return ops.multi_scale_deformable_attention(*arguments, impl=impl)

    return function


def slow(value, shapes, locations, weights):
    """Point by point, as the paper writes it."""
    batch, _, heads, channels = value.shape
    out = torch.zeros(batch, locations.shape[1], heads, channels, dtype=value.dtype)
    for b, q, h, level, point in torch.cartesian_prod(*map(torch.arange, locations.shape[:5])):
        start = sum(height * width for height, width in shapes[:level])
        height, width = shapes[level]
        x, y = (locations[b, q, h, level, point] * torch.tensor([width, height]) - 0.5).tolist()
        for row in range(height):
            for column in range(width):
                part = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
                here = value[b, start + row * width + column, h]
                out[b, q, h] += part * weights[b, q, h, level, point] * here
    return out.flatten(2)


@pytest.mark.parametrize("impl", ["reference", "torch", "auto"])
def test_what_it_is(impl):
    for case in (CASES["three levels"], CASES["odd"], CASES["one of each"]):
        inputs = draw(case)
        torch.testing.assert_close(of(impl)(*inputs), slow(*inputs))


def mmcv_function():
    pytest.importorskip("mmcv")
    importlib.import_module("swin_backbone")  # lets mmcv.ops import
    module = importlib.import_module("mmcv.ops.multi_scale_deform_attn")

    def function(value, shapes, locations, weights):
        shapes = torch.tensor(shapes, device=value.device)
        return module.multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)

    return function


def transformers_function():
    name = "transformers.models.mask2former.modeling_mask2former"
    pytest.importorskip("transformers")
    return importlib.import_module(name).multi_scale_deformable_attention


@every_case
@pytest.mark.parametrize("peer", [mmcv_function, transformers_function])
@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_as_in_other_packages(case, peer, impl):
    """float64, forward and backward. Kinks lie where a point hits a pixel's centre: never here."""
    inputs = draw(case)
    grad = torch.randn(case.batch, case.queries, case.heads * case.channels, dtype=torch.float64)
    ours, theirs = (with_gradients(function, *inputs, grad) for function in (of(impl), peer()))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_16_bits_are_float32(impl, dtype):
    """Rounding of the result is all that is lost: half a step."""
    value, shapes, locations, weights = draw(CASES["many points"], dtype)
    out = of(impl)(value, shapes, locations.float(), weights)
    exact = of("reference")(value.double(), shapes, locations.double(), weights.double())
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.double(), exact, rtol=0.51 * torch.finfo(dtype).eps + 1e-6, atol=1e-6
    )


def test_every_derivative_of_the_definition():
    value, shapes, locations, weights = draw(PointCase(1, 2, 1, 2, 2, ((3, 4), (2, 2))))
    leaves = [x.requires_grad_() for x in (value, locations, weights)]

    def function(value, locations, weights):
        return of("reference")(value, shapes, locations, weights)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_transforms_take_plain_operators():
    value, shapes, locations, weights = draw(CASES["odd"])

    def loss(weights):
        return of("auto")(value, shapes, locations, weights).square().sum()

    hessian = torch.func.hessian(loss)(weights).reshape(weights.numel(), -1)
    assert torch.linalg.eigvalsh(hessian).min() > -1e-8  # a square of something linear
    assert hessian.abs().sum() > 0


@pytest.mark.parametrize("impl", ["reference", "torch", "auto"])
@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0)])
def test_of_nothing(impl, batch, queries):
    inputs = draw(CASES["odd"]._replace(batch=batch, queries=queries), torch.float32)
    grad = torch.zeros(batch, queries, 15)
    out, *grads = with_gradients(of(impl), *inputs, grad)
    assert out.shape == grad.shape
    assert all(not g.any() for g in grads)


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_kinds_of_shapes(kind):
    value, shapes, locations, weights = draw(CASES["odd"])
    out = of("auto")(value, kind(shapes), locations, weights)
    torch.testing.assert_close(out, of("auto")(value, shapes, locations, weights))


def changed(**others):
    value, shapes, locations, weights = draw(CASES["odd"], torch.float32)
    inputs = {"value": value, "spatial_shapes": shapes, "sampling_locations": locations}
    return {**inputs, "attention_weights": weights, **others}


BAD = {
    "no tensor": ({"value": 3}, TypeError, "value"),
    "axes": ({"value": torch.zeros(2, 3)}, ValueError, "value"),
    "integers": ({"attention_weights": torch.zeros(1, 7, 3, 2, 3).int()}, TypeError, "weights"),
    "other heads": ({"sampling_locations": torch.zeros(1, 7, 4, 2, 3, 2)}, ValueError, "locations"),
    "three coordinates": (
        {"sampling_locations": torch.zeros(1, 7, 3, 2, 3, 3)}, ValueError, "locations"
    ),
    "other points": ({"attention_weights": torch.zeros(1, 7, 3, 2, 4)}, ValueError, "weights"),
    "levels": ({"spatial_shapes": [(2, 11)]}, ValueError, "2 levels"),
    "keys": ({"spatial_shapes": [(4, 3), (2, 6)]}, ValueError, "22 keys"),
    "no pairs": ({"spatial_shapes": [12, 10]}, TypeError, "spatial_shapes"),
    "negative": ({"spatial_shapes": [(-4, -3), (2, 5)]}, ValueError, "spatial_shapes"),
    "fractions": ({"spatial_shapes": torch.ones(2, 2)}, TypeError, "spatial_shapes"),
    "tensor": ({"spatial_shapes": torch.tensor([[4, 3], [5, 5]])}, ValueError, "22 keys"),
    "text": ({"spatial_shapes": "4x3"}, TypeError, "spatial_shapes"),
    "impl": ({"impl": "cuda"}, ValueError, "impl"),
    "channels": ({"value": torch.zeros(1, 22, 3, 0)}, ValueError, "channel"),
}  # fmt: skip


@pytest.mark.parametrize(("others", "kind", "words"), BAD.values(), ids=BAD)
def test_errors(others, kind, words):
    with pytest.raises(kind, match=words):
        ops.multi_scale_deformable_attention(**changed(**others))
