"""Kernels of multi-scale deformable attention against float64: on a GPU, or in an interpreter."""

import pytest
import torch
from helpers.errors import assert_as_good, relative_error
from helpers.points import CASES, draw, with_gradients
from helpers.triton_kernels import DEVICE, HAS_GPU  # skips first where no kernel can run

from swin_backbone import ops
from swin_backbone.ops import triton
from swin_backbone.ops.triton import deformable_attention_op  # noqa: F401  (registers the operator)

#: Triton's interpreter cuts bfloat16 off instead of rounding.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if HAS_GPU else [])]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def of(impl):
    def function(*arguments):
        return ops.multi_scale_deformable_attention(*arguments, impl=impl)

    return function


@pytest.fixture
def deterministic():
    """Fresh memory is filled with NaN, so that what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def gradient_for(case, dtype):
    shape = (case.batch, case.queries, case.heads * case.channels)
    return torch.randn(shape, dtype=dtype, device=DEVICE)


def assert_right(case, dtype):
    """Against float64, no farther than PyTorch's own sampling in the same dtype, or 1e-5."""
    inputs = draw(case, dtype, DEVICE)
    grad = gradient_for(case, dtype)
    exact = with_gradients(of("reference"), *_doubled(inputs), grad.double())
    ours, plain = (with_gradients(of(impl), *inputs, grad) for impl in ("triton", "torch"))
    errors = [[relative_error(*pair) for pair in zip(r, exact, strict=True)] for r in (ours, plain)]
    assert_as_good(*errors, dtype)
    assert [x.dtype for x in ours] == [dtype] * 4
    return ours


def _doubled(inputs):
    return [x.double() if isinstance(x, torch.Tensor) else x for x in inputs]


@every_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_result_and_gradients(case, dtype):
    assert_right(case, dtype)


@pytest.mark.parametrize("limit", [1, 700, 10_000])
def test_sums_of_some_images(limit, monkeypatch):
    """Gradients of 16 bits are summed in parts: each is right, whatever the parts are."""
    monkeypatch.setattr(triton.deformable_attention_op, "CACHED", limit)
    assert_right(CASES["three levels"]._replace(batch=3), torch.float16)


@every_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_where_that_is_asked_for(case, dtype, deterministic):
    torch.manual_seed(3)
    first = assert_right(case, dtype)
    torch.manual_seed(3)
    assert all(map(torch.equal, first, assert_right(case, dtype)))


def test_points_of_one_value(deterministic):
    """Thousands of points whose cells are one: gradients add up in blocks."""
    case = CASES["many queries"]._replace(queries=400, points=3)
    value, shapes, locations, weights = draw(case, torch.float32, DEVICE)
    locations = locations * 0.02 + 0.5
    grad = gradient_for(case, torch.float32)
    ours, exact = (
        with_gradients(of(impl), *some, grad.to(some[0].dtype))
        for impl, some in (
            ("triton", (value, shapes, locations, weights)),
            ("reference", _doubled((value, shapes, locations, weights))),
        )
    )
    for own, right in zip(ours, exact, strict=True):
        assert relative_error(own, right) < 1e-5


def cut_off(exact):
    """The numbers of bfloat16 that Triton's interpreter writes for these."""
    bits = exact.float().view(torch.int32)
    return (bits & -(2**16)).view(torch.float32)


def test_precisions_that_differ():
    """16-bit values, float32 locations and weights, as autocast makes them."""
    case = CASES["three levels"]
    value, shapes, locations, weights = draw(case, torch.float32, DEVICE)
    grad = gradient_for(case, torch.bfloat16)
    inputs = (value.bfloat16(), shapes, locations, weights)
    ours = with_gradients(of("triton"), *inputs, grad)
    exact = with_gradients(of("reference"), *_doubled(inputs), grad.double())
    expected = [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert [x.dtype for x in ours] == expected
    if not HAS_GPU:  # the kernel writes the result itself; gradients are rounded by PyTorch
        exact[0] = cut_off(exact[0])
    for own, right in zip(ours, exact, strict=True):
        assert relative_error(own, right) < (1e-5 if own.dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("deterministic_too", [False, True])
def test_points_nowhere_count_as_zero(deterministic_too, request):
    if deterministic_too:
        request.getfixturevalue("deterministic")
    case = CASES["three levels"]
    value, shapes, locations, weights = draw(case, torch.float32, DEVICE)
    locations[..., 0, 0, :] = torch.tensor([float("nan"), float("inf")], device=DEVICE)
    locations[..., 1, 0, :] = torch.tensor([-1e30, 1e30], device=DEVICE)
    grad = gradient_for(case, torch.float32)
    ours = with_gradients(of("triton"), value, shapes, locations, weights, grad)
    locations[..., :2, 0, :] = -5.0
    exact = with_gradients(of("torch"), value, shapes, locations, weights, grad)
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)


def test_derivatives_of_gradients():
    """By the definition: a gradient penalty has the gradients that it has in plain operators."""
    inputs = draw(CASES["three levels"], torch.float32, DEVICE)
    penalties = []
    for impl in ("triton", "reference"):
        leaves = [x.clone().requires_grad_() for x in inputs if isinstance(x, torch.Tensor)]
        out = of(impl)(leaves[0], inputs[1], leaves[1], leaves[2])
        grads = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        sum(g.square().sum() for g in grads).backward()
        penalties.append([x.grad for x in leaves])
    torch.testing.assert_close(*penalties, rtol=1e-4, atol=1e-4)


def test_as_an_operator():
    """What torch.compile, fake tensors and autograd ask of an operator."""
    value, shapes, locations, weights = draw(CASES["odd"], torch.float32, DEVICE)
    shapes = torch.tensor(shapes, device=DEVICE)
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        torch.ops.swin_backbone.multi_scale_deformable_attention.default,
        (leaves[0], shapes, leaves[1], leaves[2]), test_utils=checks,
    )  # fmt: skip


def test_parts_of_larger_tensors():
    """Inputs that are not contiguous."""
    case = CASES["odd"]
    inputs = draw(case, torch.float32, DEVICE)
    apart = [torch.stack([x, x], -1)[..., 0] if isinstance(x, torch.Tensor) else x for x in inputs]
    grad = gradient_for(case, torch.float32)
    ours, expected = (with_gradients(of("triton"), *some, grad) for some in (apart, inputs))
    torch.testing.assert_close(ours, expected)
