"""Fused branches and norms against their references: on a GPU, or small in an interpreter."""

import pytest
import torch
import torch.nn.functional as F
from helpers.block_cases import (
    BRANCHES,
    branch_and_gradients,
    compare,
    draw,
    run_attention,
    run_mlp,
    run_post_norm_attention,
    run_post_norm_mlp,
)
from helpers.errors import assert_as_good, assert_small, pooled_errors, relative_error
from helpers.triton_kernels import (  # skips first where no kernel can run
    DEVICE,
    HAS_GPU,
)

from swin_backbone.ops import (
    Windows,
    clear_padding,
    dispatch,
    merge_neighbours,
)
from swin_backbone.ops.dispatch import why_not_fused
from swin_backbone.ops.geometry.windows import valid_tokens
from swin_backbone.ops.triton import (
    attention_terms_op,
    launch,
    post_norm_attention_op,
    post_norm_mlp_op,
)
from swin_backbone.ops.triton import linear_op as products
from swin_backbone.ops.triton import residual_attention_op as fused_attention
from swin_backbone.ops.triton import residual_mlp_op as fused_mlp
from swin_backbone.ops.triton.launch import forget_launches
from swin_backbone.ops.triton.norm_op import layer_norm, normed_shape

# Sums of two powers of two: both kinds that stay on chip, and what is passes of its own.
CHANNELS = [32, 48, 320]
#: Of torch.library.opcheck.
ALL_CHECKS = "test_schema", "test_autograd_registration", "test_faketensor"


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("run", BRANCHES)
def test_halves_agree_with_their_reference(run, channels):
    """1e-5 in float32: sums over hundreds of channels and tokens, rounded to 1e-7 each."""
    path_scale = torch.tensor([1.25, 0.0], device=DEVICE)  # the second image is dropped
    kernels, reference = compare(
        run, channels, (5, 6), (4, 4), (2, 2), torch.float32, path_scale=path_scale
    )
    assert_as_good(kernels, reference, torch.float32)


@pytest.mark.parametrize("run", [run_attention, run_post_norm_attention])
def test_without_stochastic_depth_and_bias_of_queries(run):
    kernels, reference = compare(run, 48, (5, 3), (3, 2), (1, 0), torch.float32, drop=("qkv_bias",))
    assert_as_good(kernels, reference, torch.float32)


@pytest.mark.parametrize("run", BRANCHES)
def test_work_that_is_shared_by_few_programs(run, monkeypatch):
    """A program that loops over several windows or blocks of rows adds up all it has summed."""
    for key, chosen in list(launch.CONFIGS.items()):
        if chosen.programs:
            monkeypatch.setitem(launch.CONFIGS, key, chosen._replace(programs=4))
    monkeypatch.setattr(launch, "PROGRAMS", 2)
    kernels, reference = compare(run, 32, (9, 11), (4, 4), (2, 2), torch.float32)
    assert_as_good(kernels, reference, torch.float32)


@pytest.mark.parametrize("run", [run_mlp, run_post_norm_mlp])
@pytest.mark.parametrize("path_scale", [None, (0.5, 0.0, 1.25)])
@pytest.mark.parametrize(
    ("channels", "writes_hidden"),
    [
        (64, False),
        (64, True),
        (96, False),
        (96, True),
        pytest.param(192, False, marks=pytest.mark.slow),
    ],
)
def test_mlp_on_chip_by_several_programs(run, channels, writes_hidden, path_scale, monkeypatch):
    """Programs that share the rows of an image, and a last one that has few; a norm's
    bias that outweighs its output, since the kernel's sums are of what stands before it."""
    small = launch.Config(rows=16, columns=32, programs=16)
    kernels = ["mlp_forward", "mlp_backward", "post_norm_mlp_forward", "post_norm_mlp_backward"]
    for kernel in [*kernels, "mlp_weight_gradients"]:
        monkeypatch.setitem(launch.CONFIGS, (kernel, None), small)  # float32 has no other
    monkeypatch.setattr(fused_mlp, "writes_hidden", lambda *_: writes_hidden)
    path_scale = None if path_scale is None else torch.tensor(path_scale, device=DEVICE)
    kernels, reference = compare(
        run,
        channels,
        (3, 5),
        (4, 4),
        (0, 0),
        torch.float32,
        batch=3,
        path_scale=path_scale,
        norm_bias=3.0,
    )
    assert_as_good(kernels, reference, torch.float32)


@pytest.mark.parametrize("run", [run_mlp, run_post_norm_mlp])
def test_perceptron_that_does_not_fit_on_chip(run, monkeypatch):
    """Small devices, and wide dtypes: passes of their own give the same gradients."""
    results = []
    for fits in (True, False):
        monkeypatch.setattr(fused_mlp, "backward_fits", lambda *_, fits=fits: fits)
        torch.manual_seed(0)
        x, cotangent = torch.randn(2, 2, 3, 5, 48, device=DEVICE)
        parameters = draw(48, 1, (4, 4))
        path_scale = torch.tensor([1.25, 0.5], device=DEVICE)
        results.append(
            branch_and_gradients(
                run, x, parameters, None, path_scale, "triton", torch.float32, cotangent
            )
        )
    on_chip, by_passes = results
    assert_small(pooled_errors([on_chip], [by_passes], least_norm=1e-9), 1e-5)


@pytest.mark.parametrize("enough_programs", [1, 10**6])
@pytest.mark.parametrize(
    ("run", "channels"),
    [(run_attention, 32), (run_mlp, 320), (run_post_norm_attention, 32), (run_post_norm_mlp, 320)],
)
def test_products_in_large_and_small_blocks(run, channels, enough_programs, monkeypatch):
    """Blocks are chosen by how many programs they make; launches are remembered by shape."""
    monkeypatch.setattr(products, "ENOUGH_PROGRAMS", enough_programs)
    forget_launches()
    try:
        kernels, reference = compare(run, channels, (7, 5), (4, 4), (2, 2), torch.float32)
        assert_as_good(kernels, reference, torch.float32)
    finally:
        forget_launches()


@pytest.mark.parametrize("merge", [False, True])
def test_norm_agrees_with_torchs(merge):
    x = torch.randn(2, 5, 7, 24, device=DEVICE)
    width = 4 * 24 if merge else 24
    weight, bias = torch.rand(width, device=DEVICE) + 0.5, torch.randn(width, device=DEVICE)

    def differentiate(run, dtype):
        tensors = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
        out = run(*tensors)
        return [out, *torch.autograd.grad(out.sin().sum(), tensors)]

    def exact(x, weight, bias):
        x = merge_neighbours(x) if merge else x
        return F.layer_norm(x, (width,), weight, bias, 1e-5)

    def kernel(x, weight, bias):
        out = layer_norm(x, weight, bias, 1e-5, merge, torch.float32, None)
        # back to the order of nn.Unfold
        return out.unflatten(-1, (4, -1)).transpose(-1, -2).flatten(-2) if merge else out

    pairs = zip(
        differentiate(kernel, torch.float32), differentiate(exact, torch.float64), strict=True
    )
    # float32, sums over 48 tokens
    assert_small((relative_error(a, b) for a, b in pairs), 1e-6)


@pytest.mark.parametrize("merge", [False, True])
def test_norm_of_images_smaller_than_their_batch(merge):
    """Zeros outside, whatever was there: of the norm, or of the map that is merged."""
    x = torch.randn(3, 5, 7, 16, device=DEVICE)
    width = 64 if merge else 16
    weight, bias = torch.rand(width, device=DEVICE) + 0.5, torch.randn(width, device=DEVICE)
    sizes = torch.tensor([[3, 6], [5, 7], [0, 2]], dtype=torch.int32, device=DEVICE)
    if merge:  # a cotangent of what is outside is zero: the next stage does not see it
        shrunk = -(-sizes // 2)
    cotangent = torch.randn(normed_shape(x, merge), device=DEVICE)

    def differentiate(run, dtype):
        tensors = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
        out = run(*tensors)
        own = clear_padding(cotangent, shrunk) if merge else cotangent
        return [out, *torch.autograd.grad(out, tensors, own.to(dtype))]

    def exact(x, weight, bias):
        x = merge_neighbours(clear_padding(x, sizes)) if merge else x
        out = F.layer_norm(x, (width,), weight, bias, 1e-5)
        return out if merge else clear_padding(out, sizes)

    def kernel(x, weight, bias):
        outside = ~valid_tokens(*x.shape[1:3], sizes)[..., None]
        x = x.masked_fill(outside, float("nan"))  # a gradient of zero there stays one
        out = layer_norm(x, weight, bias, 1e-5, merge, torch.float32, sizes)
        return out.unflatten(-1, (4, -1)).transpose(-1, -2).flatten(-2) if merge else out

    pairs = zip(
        differentiate(kernel, torch.float32), differentiate(exact, torch.float64), strict=True
    )
    # float32, sums over 48 tokens
    assert_small((relative_error(a, b) for a, b in pairs), 1e-6)


def test_every_element_is_written_and_bits_repeat():
    """Fresh memory is filled with NaN, so that what a kernel leaves out shows."""
    parameters = draw(32, 2, (4, 4))
    x, cotangent = torch.randn(2, 2, 5, 7, 32, device=DEVICE)
    windows = Windows(2, (4, 4), (2, 2), 0.25)
    torch.use_deterministic_algorithms(True)
    try:
        for run in BRANCHES:
            first, second = (
                branch_and_gradients(
                    run, x, parameters, windows, None, "triton", torch.float32, cotangent
                )
                for _ in range(2)
            )
            for a, b in zip(first, second, strict=True):
                assert a.isfinite().all()
                assert torch.equal(a, b)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("run", BRANCHES)
def test_compiles_as_one_operator(run):
    """torch.compile sees the registered operator, eager use the autograd function: same values."""
    parameters = {k: v.requires_grad_() for k, v in draw(32, 2, (4, 4)).items()}
    windows = Windows(2, (4, 4), (2, 2), 0.25)
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in [(5, 3), (2, 7)]:
        x = torch.randn(2, *size, 32, device=DEVICE, requires_grad=True)
        results = []
        for call in (run, compiled):
            out = call(x, parameters, windows, None, "triton")
            tensors = [x, *parameters.values()]
            results.append([out, *torch.autograd.grad(out.sin().sum(), tensors, allow_unused=True)])
        for a, b in zip(*results, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_operators_are_well_formed():
    p = {k: v.requires_grad_() for k, v in draw(32, 2, (4, 4)).items()}
    x = torch.randn(1, 5, 6, 32, device=DEVICE, requires_grad=True)
    low = [p[name].detach() for name in ("up_weight", "down_weight")]
    mlp = [p[name] for name in ("up_weight", "up_bias", "down_weight", "down_bias")]
    norm = [p["norm_weight"], p["norm_bias"]]
    torch.library.opcheck(fused_mlp.residual_mlp.operator, (x, None, *norm, *mlp, *low, 1e-5))
    attention = [p[k] for k in ("qkv_weight", "qkv_bias", "table", "proj_weight", "proj_bias")]
    low = [p[name].detach() for name in ("qkv_weight", "qkv_bias", "proj_weight")]
    arguments = (*norm, *attention, *low, None, None, None, 1e-5, [4, 4, 2, 2], 0.25, 0.0)
    torch.library.opcheck(fused_attention.residual_attention.operator, (x, None, *arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_operators_of_v2_are_well_formed(dtype):
    """With and without a copy of the input in another dtype."""
    p = {k: v.requires_grad_() for k, v in draw(32, 2, (4, 4)).items()}
    x = torch.randn(1, 5, 6, 32, device=DEVICE, requires_grad=True)
    offsets = [p[k] for k in ("offset_weight", "offset_bias", "head_weight", "logit_scale")]
    query, _, value = (part.detach().clone().requires_grad_() for part in p["qkv_bias"].chunk(3))
    arguments = (*offsets, query, value, [4, 4, 8, 8], 4.6, dtype)
    terms = attention_terms_op.attention_terms
    torch.library.opcheck(terms.operator, arguments)
    table, factors, bias = terms.operator(*arguments)
    norm = [p["norm_weight"], p["norm_bias"]]

    def low(*names):
        return [p[name].detach().to(dtype) for name in names]

    mlp = [p[k] for k in ("up_weight", "up_bias", "down_weight", "down_bias")]
    weights = low("up_weight", "down_weight")
    for keep in (True, False):
        inputs = x if keep else x.detach()
        torch.library.opcheck(
            post_norm_mlp_op.post_norm_mlp.operator,
            (inputs, None, *mlp, *norm, *weights, 1e-5, keep),
            test_utils=ALL_CHECKS if keep else ALL_CHECKS[:1],
        )
    qkv, proj = low("qkv_weight", "proj_weight")
    arguments = (p["qkv_weight"], query, value, table.detach(), factors.detach(), p["proj_weight"])
    arguments += (p["proj_bias"], *norm, qkv, bias, proj, None, None, None, 1e-5, [4, 4, 2, 2], 0.0)
    operator = post_norm_attention_op.post_norm_attention.operator
    torch.library.opcheck(operator, (x, None, *arguments, True))


@pytest.mark.parametrize(
    ("channels", "backend", "reason"),
    [
        (96, "reference", "was asked for"),
        (96, "auto", "no CUDA device"),
        (80, "triton", None),
        (112, "triton", "sum of two powers of two"),
    ],
)
def test_why_a_branch_is_not_fused(channels, backend, reason):
    actual = why_not_fused(torch.zeros(1, 2, 2, channels), backend)
    if HAS_GPU and backend == "triton":
        pytest.skip("kernels do not run on the CPU beside a GPU")
    assert actual is None if reason is None else reason in actual


@pytest.mark.parametrize("run", BRANCHES)
def test_branches_are_fused_where_that_is_asked_for(run):
    x, parameters = torch.randn(1, 4, 4, 32, device=DEVICE), draw(32, 1, (4, 4))
    heard = []
    with dispatch.listening(heard.append):
        run(x, parameters, Windows(1, (4, 4), (0, 0), 0.2), None, "triton")
    ways = {decision.operation: decision.way for decision in heard}
    assert ways["MLP branch" if "mlp" in run.__name__ else "attention branch"] == "triton"
