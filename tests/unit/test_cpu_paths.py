"""What makes the CPU fast, against the plain composition that it stands for."""

import pytest
import torch
import torch.nn.functional as F

from swin_backbone import SwinBackbone
from swin_backbone.ops import (
    LinearParameters,
    NormParameters,
    Windows,
    merge_neighbours,
    merge_norm_linear,
    residual_attention,
    residual_mlp,
    shifted_window_attention,
)
from swin_backbone.ops.cpu import chunked_attention as attention
from swin_backbone.ops.cpu import onednn_linear as products
from swin_backbone.ops.dispatch import why_not_cpu
from swin_backbone.ops.geometry.token_layout import MAPS, TokenLayout

CHANNELS = 32
# Stochastic depth: none, all kept, some dropped, all dropped.
PATH_SCALES = [None, (2.0, 0.5, 1.0), (0.0, 2.0, 0.0), (0.0, 0.0, 0.0)]


def branch_inputs(hidden, dtype):
    shapes = {
        "x": (3, 9, 8, CHANNELS),
        "norm_weight": (CHANNELS,),
        "norm_bias": (CHANNELS,),
        "first_weight": (hidden, CHANNELS),
        "first_bias": (hidden,),
        "second_weight": (CHANNELS, CHANNELS if hidden == 3 * CHANNELS else hidden),
        "second_bias": (CHANNELS,),
        "bias_table": (49, 2),
    }
    scale = {"first_weight": 0.2, "second_weight": 0.2}
    return {
        name: (torch.randn(shape, dtype=dtype) * scale.get(name, 1.0)).requires_grad_()
        for name, shape in shapes.items()
    }


def run_branch(kind, inputs, path_scale, backend):
    norm = NormParameters(inputs["norm_weight"], inputs["norm_bias"], 1e-5)
    first = LinearParameters(inputs["first_weight"], inputs["first_bias"])
    second = LinearParameters(inputs["second_weight"], inputs["second_bias"])
    path_scale = None if path_scale is None else torch.tensor(path_scale)
    if kind == "mlp":
        return residual_mlp(inputs["x"], norm, first, second, path_scale, backend)
    windows = Windows(2, (4, 4), (2, 2), 0.3)
    return residual_attention(
        inputs["x"], norm, first, inputs["bias_table"], second, windows, path_scale, backend
    )


def convert(inputs, dtype):
    return {k: v.detach().to(dtype).requires_grad_() for k, v in inputs.items()}


def with_gradients(kind, inputs, path_scale, backend):
    out = run_branch(kind, inputs, path_scale, backend)
    torch.manual_seed(1)
    cotangent = torch.randn(out.shape, dtype=torch.float64).to(out.dtype)
    used = [v for k, v in inputs.items() if kind == "attention" or k != "bias_table"]
    return [out, *torch.autograd.grad(out, used, cotangent, materialize_grads=True)]


@pytest.mark.parametrize("path_scale", PATH_SCALES)
@pytest.mark.parametrize(("kind", "hidden"), [("mlp", 4 * CHANNELS), ("attention", 3 * CHANNELS)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_branches_agree_with_the_reference(kind, hidden, path_scale, dtype, tolerance):
    """Forward and backward; float32 rounds sums of up to 216 products of numbers around 10."""
    exact_inputs = branch_inputs(hidden, torch.float64)
    expected = with_gradients(kind, exact_inputs, path_scale, "reference")
    actual = with_gradients(kind, convert(exact_inputs, dtype), path_scale, "auto")
    for a, e in zip(actual, expected, strict=True):
        assert ((a.double() - e).norm() / e.norm().clamp(min=1e-9)).item() <= tolerance


@pytest.fixture(params=[False, True], ids=["no tiles", "tiles"])
def tiles(request, monkeypatch):
    """Attention in bfloat16 as on a processor that multiplies in tiles, or not, whichever runs."""
    monkeypatch.setattr(attention, "multiplies_in_tiles", lambda: request.param)


@pytest.mark.parametrize(("kind", "hidden"), [("mlp", 4 * CHANNELS), ("attention", 3 * CHANNELS)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_branches_without_gradients(kind, hidden, dtype, tiles):
    """Inference takes other ways: bfloat16 within 1.5 times the reference's own error."""
    exact_inputs = convert(branch_inputs(hidden, torch.float64), dtype)
    exact = run_branch(kind, convert(exact_inputs, torch.float64), None, "reference")

    @torch.no_grad()
    def error(backend):
        out = run_branch(kind, exact_inputs, None, backend)
        assert out.dtype == dtype
        return ((out.double() - exact).norm() / exact.norm()).item()

    limits = {torch.float64: 1e-12, torch.float32: 1e-5}
    assert error("auto") <= limits.get(dtype, 1.5 * error("reference"))


def test_dropped_images_are_not_computed():
    """A branch that is multiplied by zero may even overflow; its parameters' gradients are 0."""
    inputs = branch_inputs(4 * CHANNELS, torch.float32)
    with torch.no_grad():
        inputs["first_weight"].fill_(float("inf"))
    out, *gradients = with_gradients("mlp", inputs, (0.0, 0.0, 0.0), "auto")
    assert torch.equal(out, inputs["x"])
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients[1:])


@pytest.mark.parametrize("offset", [0.0, 300.0, -300.0])
def test_softmax_in_bfloat16_survives_large_scores(offset, tiles):
    """Scores whose exponentials overflow, or all vanish, take the way round."""
    qkv = torch.randn(1, 14, 14, 96).to(torch.bfloat16)
    table = torch.randn(169, 2) + offset
    options = {"num_heads": 2, "window_size": (7, 7), "shift_size": (3, 3)}
    exact = shifted_window_attention(qkv.double(), table.double(), backend="reference", **options)

    @torch.no_grad()
    def error(backend):
        out = shifted_window_attention(qkv, table.to(torch.bfloat16), backend=backend, **options)
        return (out.double() - exact).norm().item()

    assert error("cpu") <= 1.5 * error("reference")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, True), ({"amx_bf16": False}, False), ({"neon": True}, False),
     (None, False)],
)  # fmt: skip
def test_whether_there_are_tiles_is_asked_of_torch(monkeypatch, capabilities, expected):
    """Where it cannot be asked there are none."""
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    attention.multiplies_in_tiles.cache_clear()
    assert attention.multiplies_in_tiles() is expected
    attention.multiplies_in_tiles.cache_clear()


def test_windows_in_several_steps_agree(monkeypatch):
    """A cache's worth of windows at a time or all at once, images and padding included."""
    qkv, table = torch.randn(2, 30, 17, 96), torch.randn(169, 2)
    padding = torch.randn(96)
    options = {"num_heads": 2, "window_size": (7, 7), "shift_size": (3, 3), "padding_qkv": padding}
    whole = shifted_window_attention(qkv, table, backend="reference", **options)
    for heads in (2, 6, 1000):
        monkeypatch.setattr(attention, "HEADS_PER_THREAD", heads)
        out = shifted_window_attention(qkv, table, backend="cpu", **options)
        torch.testing.assert_close(out, whole)
        out = shifted_window_attention(qkv.requires_grad_(), table, backend="cpu", **options)
        torch.testing.assert_close(out, whole)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [(7, 5), (2, 1), (12, 16)], ids=str)  # parameters are more, or not
@pytest.mark.parametrize("masked", [False, True])
def test_merging_agrees_with_its_steps(dtype, size, masked):
    x, weight = torch.randn(2, *size, 8, dtype=torch.float64), torch.randn(16, 32).double()
    norm_weight, norm_bias = torch.randn(2, 32, dtype=torch.float64)
    layout = TokenLayout(torch.tensor([size, (1, 1)], dtype=torch.int32)) if masked else MAPS

    def steps(x, norm_weight, norm_bias, weight):
        merged = merge_neighbours(layout.clear(x))
        return F.linear(F.layer_norm(merged, (32,), norm_weight, norm_bias, 1e-5), weight)

    def fast(x, norm_weight, norm_bias, weight):
        return merge_norm_linear(x, NormParameters(norm_weight, norm_bias, 1e-5), weight, layout)

    inputs = x, norm_weight, norm_bias, weight
    gradient = torch.randn(steps(*inputs).shape, dtype=torch.float64)
    results = []
    for function, kind in ((steps, torch.float64), (fast, dtype)):
        leaves = [tensor.to(kind, copy=True).requires_grad_() for tensor in inputs]
        out = function(*leaves)
        out.backward(gradient.to(kind))
        results.append([out, *(leaf.grad for leaf in leaves)])
        with torch.no_grad():
            results[-1].append(function(*leaves))
    limit = {torch.float64: 1e-12, torch.float32: 1e-4}[dtype]  # sums of 32 and more, some small
    for expected, found in zip(*results, strict=True):
        assert (found.double() - expected).abs().max() <= limit * expected.abs().max()


def test_works_without_onednn(monkeypatch):
    images = torch.randn(1, 3, 40, 56)
    model = SwinBackbone(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)).eval()
    with torch.no_grad():
        expected = model(images)
        monkeypatch.setattr(products, "has_onednn_linear", lambda dtype: False)
        for actual, e in zip(model(images), expected, strict=True):
            torch.testing.assert_close(actual, e, rtol=1e-4, atol=1e-4)


def test_compilers_and_counters_get_plain_operators():
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.randn(1, 3)
    assert why_not_cpu(x) is None
    with FlopCounterMode(display=False):
        assert why_not_cpu(x) == "something watches the operators"
    seen = []
    torch.vmap(lambda row: (seen.append(why_not_cpu(row)), row)[1])(x)
    assert seen != [None]
    assert why_not_cpu(x.to("meta")) == "needs the CPU, got meta"
