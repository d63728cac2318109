"""The Triton kernels against the reference: on a GPU, or small in Triton's interpreter."""

import pytest
import torch
from helpers.attention_cases import (
    LARGE_WINDOWS,
    OPTIONS,
    WINDOWS,
    attend_and_differentiate,
    compare,
    make_inputs,
)
from helpers.errors import assert_as_good, assert_small
from helpers.triton_kernels import (  # skips first where no kernel can run
    DEVICE,
    HAS_GPU,
)

from swin_backbone import SwinBackbone
from swin_backbone.ops import shifted_window_attention
from swin_backbone.ops.triton import launch, row_attention_op, streamed_attention_op
from swin_backbone.ops.triton.attention_op import window_attention
from swin_backbone.ops.triton.tuning_candidates import CANDIDATES, CAUTIOUS

#: For what runs in either place, so that ``-m gpu`` finds it where there is a GPU.
wherever = pytest.mark.gpu if HAS_GPU else (lambda test: test)


SHAPES = [(1, 1), (5, 9), (8, 7), (13, 15)]


@pytest.mark.parametrize(("window_size", "shift_size"), WINDOWS)
@pytest.mark.parametrize("size", SHAPES)
def test_float32_agrees_with_float64_reference(size, window_size, shift_size):
    """1e-5, since float32 sums over up to 64 tokens and windows round to 1e-7 each."""
    kernels, _ = compare(size, window_size, shift_size, torch.float32)
    assert_small(kernels, 1e-5)


@pytest.mark.parametrize("cosine", [False, True])
def test_oblong_windows_that_are_shifted_both_ways(cosine):
    kernels, _ = compare(
        (7, 11), (5, 9), (2, 4), torch.float32, heads=1, batch=1, cosine=cosine, draws=2
    )
    assert_small(kernels[:4], 1e-5)


@pytest.mark.parametrize(("window_size", "shift_size"), LARGE_WINDOWS)
@pytest.mark.parametrize("cosine", [False, True])
def test_windows_larger_than_what_is_on_chip(window_size, shift_size, cosine):
    kernels, _ = compare(
        (13, 9), window_size, shift_size, torch.float32, heads=1, head_dim=24, batch=1,
        cosine=cosine, draws=4 if cosine and window_size == (9, 9) else 1,
    )  # fmt: skip
    assert_small(kernels[:4], 1e-5)  # of the one factor of cosines nearly all cancels


@pytest.mark.parametrize(("window_size", "shift_size"), [((9, 9), (4, 4)), ((8, 9), (0, 0))])
@pytest.mark.parametrize("masked", [False, True])
def test_windows_by_whole_rows_of_scores(monkeypatch, window_size, shift_size, masked):
    """Tiles of 64 and 32, and of 64 and 16 tokens; in float32, which is taken in 16 bits only."""
    monkeypatch.setattr(row_attention_op, "ELEMENT_BYTES", 4)
    kernels, _ = compare((7, 10), window_size, shift_size, torch.float32, heads=1, masked=masked)
    assert_small(kernels, 1e-5)


#: By the sizes of blocks, launch parameters of rows, forward and backward.
BLOCKS = {
    (forward.rows, backward.rows, backward.columns, backward.depth): (forward, backward)
    for forward, backward in zip(
        *(
            [launch.CONFIGS[name, None], *CANDIDATES[name], CAUTIOUS[name]]
            for name in ("rows_forward", "rows_backward")
        ),
        strict=False,
    )
}


@pytest.mark.parametrize("chosen", BLOCKS.values(), ids=map(str, BLOCKS))
def test_rows_in_all_blocks_that_a_card_may_try(monkeypatch, chosen):
    """Whose tokens fill no number of blocks, on maps that they do not divide; 1e-5 as above."""
    monkeypatch.setattr(row_attention_op, "ELEMENT_BYTES", 4)
    for name, blocks in zip(("rows_forward", "rows_backward"), chosen, strict=True):
        monkeypatch.setitem(launch.CONFIGS, (name, None), blocks)
    launch.forget_launches()
    try:
        kernels, _ = compare((5, 11), (5, 14), (2, 7), torch.float32, heads=1, batch=1)
    finally:
        launch.forget_launches()
    assert_small(kernels, 1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cosine", [False, True])
def test_cosines_of_large_windows_pass_by_in_blocks(monkeypatch, cosine, masked):
    """Forward and backward; without cosines they are rows."""
    monkeypatch.setattr(row_attention_op, "ELEMENT_BYTES", 4)
    called = []
    for module in (row_attention_op, streamed_attention_op):
        for name in ("attend", "partials"):
            stock = getattr(module, name)
            monkeypatch.setattr(
                module, name, lambda *a, stock=stock, m=module: called.append(m) or stock(*a)
            )
    compare((7, 10), (8, 9), (0, 0), torch.float32, heads=1, cosine=cosine, masked=masked)
    assert set(called) == {streamed_attention_op if cosine else row_attention_op}
    assert len(called) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_whole_rows_agree_with_blocks(monkeypatch, packed):
    """Whose dropout drops the same weights; in maps of one size and of several. 1e-5 as above."""
    monkeypatch.setattr(row_attention_op, "ELEMENT_BYTES", 4)
    qkv, table, padding = make_inputs((10, 8), (9, 9), heads=1, batch=1)
    maps, shape = None, qkv.shape
    if packed:  # two maps of 4 x 10 tokens, a window each: first token, rows, columns, number
        maps = torch.tensor([[0, 4, 10, 0], [0, 4, 10, 1], [40, 4, 10, 0], [40, 4, 10, 1]])
        maps, shape = maps.to(DEVICE, torch.int32), (80, qkv.shape[-1])
    tensors = [
        qkv.reshape(shape).requires_grad_(),
        table.requires_grad_(),
        padding.requires_grad_(),
    ]
    seed = torch.tensor(5, device=DEVICE)
    cotangent = torch.randn(*shape[:-1], 16, device=DEVICE)

    def differentiate():
        sizes = [9, 9, 4, 4]
        out = window_attention(*tensors, None, None, maps, seed, sizes, 0.25, 0.4)
        return [out.detach(), *torch.autograd.grad(out, tensors, cotangent)]

    by_rows = differentiate()
    assert all(map(torch.equal, by_rows, differentiate()))  # the same bits again
    monkeypatch.setattr(row_attention_op, "MOST_TOKENS", 0)
    for one, other in zip(by_rows, differentiate(), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_heads_wider_than_what_is_on_chip():
    """128 channels in float32: windows of any size pass by in blocks."""
    kernels, _ = compare((5, 4), (4, 4), (2, 2), torch.float32, heads=1, head_dim=128, batch=1)
    assert_small(kernels, 1e-5)


@wherever
@pytest.mark.parametrize(("cosine", "masked"), OPTIONS)
@pytest.mark.parametrize(
    ("size", "window_size", "shift_size"),
    [
        ((9, 6), (3, 5), (0, 2)),
        pytest.param((5, 9), (4, 4), (2, 2), marks=pytest.mark.slow),
        pytest.param((13, 10), (9, 9), (4, 4), marks=pytest.mark.slow),
    ],
)
def test_cosine_attention_and_valid_sizes(size, window_size, shift_size, cosine, masked):
    kernels, reference = compare(
        size, window_size, shift_size, torch.float32, cosine=cosine, masked=masked, draws=4
    )
    assert_as_good(kernels, reference, torch.float32)


def test_nan_outside_the_valid_area_stays_there():
    qkv, table, padding = make_inputs((6, 9), (4, 4))
    qkv[0, 4:] = qkv[0, :, 5:] = float("nan")
    qkv.requires_grad_()
    out = shifted_window_attention(
        qkv, table, padding_qkv=padding, num_heads=2, window_size=(4, 4), shift_size=(2, 2),
        valid_sizes=torch.tensor([[4, 5], [6, 9]], device=DEVICE), backend="triton",
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv)
    assert out.isfinite().all()
    assert gradient.isfinite().all()
    assert not out[0, 4:].any()
    assert not gradient[0, :, 5:].any()


# Triton 3.9's interpreter multiplies bfloat16 matrices wrongly (seen with a single tl.dot).
@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
def test_low_precision_errs_no_more_than_the_reference(dtype):
    """Within 1.5 times the reference's own error in that dtype."""
    kernels, reference = compare((10, 9), (7, 7), (3, 3), dtype, batch=1)
    assert all(a <= 1.5 * b for a, b in zip(kernels, reference, strict=True)), (kernels, reference)


@pytest.mark.parametrize(
    ("window_size", "shift_size"), [((7, 7), (3, 3)), ((9, 9), (4, 4)), ((8, 16), (0, 8))]
)
def test_every_element_is_written_and_bits_repeat(window_size, shift_size):
    """Fresh memory is filled with NaN, so that what a kernel leaves out shows."""
    inputs = make_inputs((9, 12), window_size)
    cotangent = torch.randn(2, 9, 12, 32, device=DEVICE)
    arguments = ("triton", torch.float32, cotangent, 2, window_size, shift_size)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (attend_and_differentiate(inputs, *arguments) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(first, second, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)


def run_with_dropout(qkv, seed, dropout_p=0.4, window=4):
    table = torch.zeros((2 * window - 1) ** 2, 2, device=DEVICE)
    seed = torch.tensor([seed], device=DEVICE)
    sizes = [window, window, window // 2, window // 2]
    return window_attention(qkv, table, None, None, None, None, seed, sizes, 0.25, dropout_p)


@pytest.mark.parametrize(("size", "window"), [(8, 4), (9, 9)])
def test_dropout_keeps_the_mean_and_follows_the_seed(size, window):
    qkv = torch.randn(4, size, size, 96, device=DEVICE)
    qkv[..., 64:] = 1.0  # each output is the sum of the kept weights
    out = run_with_dropout(qkv, seed=1, window=window)
    assert abs(out.mean().item() - 1.0) < 0.04
    assert out.std() > 0.04
    assert torch.equal(out, run_with_dropout(qkv, seed=1, window=window))
    assert not torch.equal(out, run_with_dropout(qkv, seed=2, window=window))


@pytest.mark.parametrize("window", [4, 9])
def test_dropout_backward_drops_what_forward_dropped(window):
    """The output is linear in the values: <grad, out> = <grad of values, values>."""
    qkv = torch.randn(2, 8, 8, 96, device=DEVICE, requires_grad=True)
    out = run_with_dropout(qkv, seed=3, window=window)
    cotangent = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, qkv, cotangent)
    through_values = (gradient[..., 64:] * qkv[..., 64:]).sum()
    torch.testing.assert_close(through_values, (cotangent * out).sum(), rtol=1e-4, atol=1e-3)


def test_operator_is_well_formed():
    tensors = [tensor.requires_grad_() for tensor in make_inputs((5, 6), (4, 4))]
    arguments = (*tensors, None, None, None, None, [4, 4, 2, 2], 0.3, 0.0)
    torch.library.opcheck(window_attention.operator, arguments)


def test_backbone_gives_the_references_maps_and_gradients():
    options = {"embed_dims": 16, "depths": (2, 2), "num_heads": (1, 2), "out_indices": (0, 1)}
    fast, slow = (SwinBackbone(**options, backend=name) for name in ("triton", "reference"))
    fast.init_weights()
    slow.load_state_dict(fast.state_dict())
    images = torch.randn(1, 3, 45, 38, device=DEVICE)
    gradients = []
    for model in (fast, slow):
        maps = model.to(DEVICE).eval()(images)
        sum(m.square().mean() for m in maps).backward()
        gradients.append([m.detach() for m in maps] + [p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_compiles_without_graph_breaks_for_any_size():
    model = SwinBackbone(
        embed_dims=16, depths=(2,), num_heads=(1,), out_indices=(0,), backend="triton"
    )
    model.init_weights()
    model.to(DEVICE).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in [(24, 24), (17, 30)]:
        images = torch.randn(2, 3, *size, device=DEVICE)
        torch.testing.assert_close(compiled(images)[0], model(images)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "window_size", "message"),
    [
        (torch.float64, (4, 4), "computes in .*got torch.float64"),
        (torch.float32, (32, 33), "at most 1024 tokens, got 1056"),
    ],
)
def test_what_it_cannot_run_is_said(dtype, window_size, message):
    inputs = [tensor.to(dtype) for tensor in make_inputs((5, 6), window_size)]
    with pytest.raises(ValueError, match=message):
        shifted_window_attention(
            inputs[0], inputs[1], num_heads=2, window_size=window_size, backend="triton"
        )
