"""Shifted-window attention: what it means, that every backend agrees, and its errors."""

import logging
import math

import pytest
import torch

from swin_backbone.ops import BACKENDS, WindowGrid, shifted_window_attention
from swin_backbone.ops.geometry.windows import merge_windows, partition_windows

# The Triton kernels have tests of their own: they need a GPU, or small shapes in an interpreter.
PORTABLE_BACKENDS = [name for name in BACKENDS if name != "triton"]
FAST_BACKENDS = [name for name in PORTABLE_BACKENDS if name != "reference"]
VALID_SIZES_BACKENDS = ["reference", "sdpa"]
COSINE_BACKENDS = PORTABLE_BACKENDS
# Smaller than a window, exact, one off a multiple on either side, long and thin.
SIZES = [(1, 1), (3, 2), (7, 7), (8, 6), (13, 15), (2, 29)]
WINDOWS = [((7, 7), (3, 3)), ((7, 7), (0, 0)), ((4, 6), (2, 3)), ((3, 5), (0, 2)), ((1, 1), (0, 0))]


def make_inputs(size, window_size, heads=2, head_dim=4, batch=2, dtype=torch.float64):
    table_rows = (2 * window_size[0] - 1) * (2 * window_size[1] - 1)
    channels = 3 * heads * head_dim
    shapes = {
        "qkv": (batch, *size, channels),
        "bias_table": (table_rows, heads),
        "padding_qkv": (channels,),
    }
    tensors = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def token_by_token(
    qkv, bias_table, padding_qkv, num_heads, window_size, shift_size, scale,
    logit_scale=None, valid_sizes=None,
):  # fmt: skip
    """The definition without roll, partition or mask.

    Shifted windows are windows displaced by the shift, cut off at the borders of the padded
    map: a token attends to the tokens of its own window, if they are valid.
    """
    (batch, height, width, channels), (rows, columns) = qkv.shape, window_size
    head_dim = channels // 3 // num_heads
    padded = [math.ceil(s / w) * w for s, w in zip((height, width), window_size, strict=True)]
    tokens = [(r, c) for r in range(padded[0]) for c in range(padded[1])]

    def window_of(token):
        return tuple((x - s) // w for x, s, w in zip(token, shift_size, window_size, strict=True))

    def heads_of(token, b, part):
        inside = token[0] < height and token[1] < width
        vector = qkv[b, token[0], token[1]] if inside else padding_qkv
        return vector.view(3, num_heads, head_dim)[part]

    def similarity(q, k):
        if logit_scale is None:
            return scale * (q * k).sum(-1)
        lengths = q.norm(dim=-1).clamp_min(1e-12) * k.norm(dim=-1).clamp_min(1e-12)
        return logit_scale * (q * k).sum(-1) / lengths

    def is_valid(token, b):
        return valid_sizes is None or (
            token[0] < valid_sizes[b, 0] and token[1] < valid_sizes[b, 1]
        )

    def bias(query, key):
        row, column = query[0] - key[0] + rows - 1, query[1] - key[1] + columns - 1
        return bias_table[row * (2 * columns - 1) + column]

    out = torch.zeros(batch, height, width, num_heads, head_dim, dtype=qkv.dtype)
    for b in range(batch):
        for query in ((r, c) for r in range(height) for c in range(width)):
            if not is_valid(query, b):
                continue
            keys = [k for k in tokens if window_of(k) == window_of(query) and is_valid(k, b)]
            q = heads_of(query, b, 0)
            scores = [similarity(q, heads_of(k, b, 1)) + bias(query, k) for k in keys]
            weights = torch.stack(scores).softmax(0)
            values = torch.stack([heads_of(key, b, 2) for key in keys])
            out[b, query[0], query[1]] = (weights[..., None] * values).sum(0)
    return out.flatten(-2)


@pytest.mark.parametrize(("window_size", "shift_size"), WINDOWS)
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (8, 3)])
def test_reference_is_the_definition(size, window_size, shift_size):
    inputs = make_inputs(size, window_size, batch=1)
    options = {"num_heads": 2, "window_size": window_size, "shift_size": shift_size, "scale": 0.7}
    expected = token_by_token(**inputs, **options)
    actual = shifted_window_attention(**inputs, **options, backend="reference")
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


FEATURE_SETS = [("logit_scale",), ("valid_sizes",), ("logit_scale", "valid_sizes")]


def make_features(names, size, batch=2, dtype=torch.float64):
    """Cosine attention's factors; sizes: one whole image, one part of it, the rest random."""
    features = {}
    if "logit_scale" in names:
        features["logit_scale"] = (10 * torch.rand(2, dtype=dtype) + 1).requires_grad_()
    if "valid_sizes" in names:
        sizes = [torch.randint(1, side + 1, (batch,)) for side in size]
        features["valid_sizes"] = torch.stack(sizes, dim=1)
        features["valid_sizes"][0] = (
            torch.tensor(size) if batch > 1 else -(-torch.tensor(size) // 2)
        )
    return features


@pytest.mark.parametrize("names", FEATURE_SETS, ids="-".join)
@pytest.mark.parametrize(("window_size", "shift_size"), WINDOWS)
@pytest.mark.parametrize("size", [(1, 1), (8, 3)])
def test_reference_is_the_definition_of_features(size, window_size, shift_size, names):
    inputs = {**make_inputs(size, window_size, batch=1), **make_features(names, size, batch=1)}
    scale = None if "logit_scale" in names else 0.7
    options = {"num_heads": 2, "window_size": window_size, "shift_size": shift_size, "scale": scale}
    expected = token_by_token(**inputs, **options)
    actual = shifted_window_attention(**inputs, **options, backend="reference")
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("backend", "names"),
    [
        (name, names)
        for name in FAST_BACKENDS
        for names in [(), *FEATURE_SETS]
        if not (name == "cpu" and "valid_sizes" in names)
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
@pytest.mark.parametrize(("window_size", "shift_size"), WINDOWS)
@pytest.mark.parametrize("size", SIZES)
def test_backend_agrees_with_reference_forward_and_backward(
    backend, size, window_size, shift_size, names
):
    inputs = make_inputs(size, window_size)
    features = make_features(names, size)
    inputs |= {k: features.pop(k) for k in list(features) if features[k].is_floating_point()}
    cotangent = torch.randn(2, *size, 8, dtype=torch.float64)
    results = {}
    for name in ("reference", backend):
        out = shifted_window_attention(
            **inputs, **features, num_heads=2, window_size=window_size, shift_size=shift_size,
            backend=name,
        )  # fmt: skip
        gradients = torch.autograd.grad(
            out, list(inputs.values()), cotangent, allow_unused=True, materialize_grads=True
        )
        results[name] = (out, *gradients)
    for actual, expected in zip(results[backend], results["reference"], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", VALID_SIZES_BACKENDS)
def test_tokens_outside_the_valid_area_are_neither_seen_nor_written(backend):
    """Images of a batch give what each gives alone; NaN outside stays there; an image without
    valid tokens, and windows without any, give zeros and no NaN, forward and backward."""
    size, sizes = (11, 13), [(11, 13), (4, 9), (1, 1), (0, 0)]
    inputs = make_inputs(size, (4, 4), batch=4)
    qkv = inputs["qkv"].detach().clone()
    for image, (rows, columns) in enumerate(sizes):
        qkv[image, rows:] = qkv[image, :, columns:] = float("nan")
    inputs["qkv"] = qkv.requires_grad_()
    options = {"num_heads": 2, "window_size": (4, 4), "shift_size": (2, 2), "backend": backend}
    out = shifted_window_attention(**inputs, **options, valid_sizes=torch.tensor(sizes))
    gradients = torch.autograd.grad(
        out.square().sum(), [qkv, inputs["bias_table"]], materialize_grads=True
    )
    assert all(gradient.isfinite().all() for gradient in gradients)
    for image, (rows, columns) in enumerate(sizes):
        inside = (image, slice(rows), slice(columns))
        for tensor in (out, gradients[0]):
            outside = tensor[image].detach().clone()
            outside[:rows, :columns] = 0
            assert not outside.any()
        if rows:
            alone = {**inputs, "qkv": qkv[inside][None]}
            alone = shifted_window_attention(
                **alone, **options, valid_sizes=torch.tensor([[rows, columns]])
            )
            torch.testing.assert_close(out[inside], alone[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", VALID_SIZES_BACKENDS)
def test_valid_sizes_beyond_the_map_mean_all_of_it(backend):
    inputs = make_inputs((6, 5), (4, 4))
    options = {"num_heads": 2, "window_size": (4, 4), "backend": backend}
    exact, beyond = (
        shifted_window_attention(**inputs, **options, valid_sizes=torch.tensor([size] * 2))
        for size in [(6, 5), (99, 8)]
    )
    assert torch.equal(exact, beyond)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("backend", COSINE_BACKENDS)
def test_a_zero_key_has_cosine_zero_and_no_nan(backend, dtype):
    """A padded token's key is zero in Swin V2; float16 rounds 1e-12 to zero."""
    inputs = {k: v.detach().to(dtype) for k, v in make_inputs((3, 3), (4, 4)).items()}
    inputs["padding_qkv"][8:16] = 0
    inputs["qkv"][..., 8:16] = 0
    out = shifted_window_attention(
        **inputs, logit_scale=torch.full((2,), 50.0), num_heads=2, window_size=(4, 4),
        backend=backend,
    )  # fmt: skip
    without_scores = shifted_window_attention(
        **{**inputs, "qkv": torch.cat([0 * inputs["qkv"][..., :16], inputs["qkv"][..., 16:]], -1)},
        num_heads=2, window_size=(4, 4), backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(out, without_scores)


def test_a_backend_gets_only_what_it_takes(caplog):
    inputs = make_inputs((3, 3), (2, 2))
    options = {"num_heads": 2, "window_size": (2, 2), **make_features(FEATURE_SETS[2], (3, 3))}
    with pytest.raises(ValueError, match=r"'cpu' .* does not take valid_sizes"):
        shifted_window_attention(**inputs, **options, backend="cpu")
    with caplog.at_level(logging.DEBUG, logger="swin_backbone.ops.dispatch"):
        shifted_window_attention(**inputs, **options)
    assert "attention by 'sdpa'; refused: cpu: does not take valid_sizes" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_backend_error_in_low_precision_is_near_the_references(backend, dtype):
    """Within 1.5 times the error that the reference makes in the same dtype (float32: 1e-5)."""
    options = {"num_heads": 2, "window_size": (7, 7), "shift_size": (3, 3)}
    exact_inputs = {
        k: v.detach().to(dtype).double() for k, v in make_inputs((20, 17), (7, 7)).items()
    }
    exact = shifted_window_attention(**exact_inputs, **options, backend="reference")

    def error(name):
        inputs = {k: v.to(dtype) for k, v in exact_inputs.items()}
        out = shifted_window_attention(**inputs, **options, backend=name)
        assert out.dtype == dtype
        return ((out.double() - exact).norm() / exact.norm()).item()

    limit = 1e-5 if dtype == torch.float32 else 1.5 * error("reference")
    assert error(backend) <= limit


@pytest.mark.parametrize("backend", PORTABLE_BACKENDS)
def test_padding_defaults_to_zeros(backend):
    inputs = make_inputs((5, 6), (4, 4))
    options = {"num_heads": 2, "window_size": (4, 4), "shift_size": (2, 2), "backend": backend}
    explicit = shifted_window_attention(
        **{**inputs, "padding_qkv": torch.zeros(24, dtype=torch.float64)}, **options
    )
    del inputs["padding_qkv"]
    torch.testing.assert_close(shifted_window_attention(**inputs, **options), explicit)


@pytest.mark.parametrize("backend", PORTABLE_BACKENDS)
def test_dropout_keeps_the_mean(backend):
    """With values of one, each output is the sum of the kept weights: 1 on average."""
    inputs = {k: v.detach() for k, v in make_inputs((28, 28), (7, 7), batch=8).items()}
    inputs["qkv"][..., 16:] = 1.0
    out = shifted_window_attention(
        **inputs, num_heads=2, window_size=(7, 7), dropout_p=0.25, backend=backend
    )
    assert out.std() > 0.01
    assert abs(out.mean() - 1.0) < 0.02


def test_windows_partition_and_merge_back():
    grid = WindowGrid(5, 9, (2, 4))
    assert (grid.rows, grid.columns, grid.padded_height, grid.padded_width) == (3, 3, 6, 12)
    x = torch.randn(2, 6, 12, 3)
    windows = partition_windows(x, grid)
    torch.testing.assert_close(windows[1, 4], x[1, 2:4, 4:8].reshape(8, 3))
    torch.testing.assert_close(merge_windows(windows, grid), x)


def test_choice_of_backend_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, logger="swin_backbone.ops.dispatch"):
        shifted_window_attention(**make_inputs((3, 3), (2, 2)), num_heads=2, window_size=(2, 2))
    assert "attention by 'cpu'" in caplog.text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"qkv": torch.zeros(1, 4, 4, 24, dtype=torch.int64)}, TypeError, "qkv must be floating"),
        ({"qkv": torch.zeros(4, 4, 24)}, ValueError, r"qkv must be \(B, H, W, 3\*C\)"),
        ({"qkv": torch.zeros(1, 0, 4, 24)}, ValueError, "H, W >= 1"),
        ({"num_heads": 5}, ValueError, "num_heads must divide"),
        ({"window_size": (0, 2)}, ValueError, "window_size must be"),
        ({"shift_size": (2, 0)}, ValueError, "shift_size must be"),
        ({"bias_table": torch.zeros(8, 2)}, ValueError, r"bias_table must be \(9, 2\)"),
        ({"padding_qkv": torch.zeros(3)}, ValueError, r"padding_qkv must be \(24,\)"),
        ({"dropout_p": 1.0}, ValueError, "dropout_p must lie"),
        ({"logit_scale": torch.ones(3)}, ValueError, r"logit_scale must be \(2,\).* got \(3,\)"),
        ({"logit_scale": torch.ones(2).int()}, TypeError, "logit_scale must be floating"),
        ({"logit_scale": torch.ones(2), "scale": 0.5}, ValueError, "scale or logit_scale, not"),
        ({"valid_sizes": torch.ones(1, 2)}, TypeError, "valid_sizes must be integers"),
        ({"valid_sizes": torch.ones(1, 3).int()}, ValueError, r"valid_sizes must be \(1, 2\)"),
        ({"backend": "fastest"}, ValueError, "backend must be one of 'auto', 'reference'"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {
        "qkv": torch.zeros(1, 4, 4, 24),
        "bias_table": torch.zeros(9, 2),
        "num_heads": 2,
        "window_size": (2, 2),
    }
    with pytest.raises(error, match=message):
        shifted_window_attention(**{**arguments, **change})
