"""The attention kernels over dtypes, windows, sizes and head dimensions, and in whole models."""

import pytest
import torch
from helpers.attention_cases import (
    ALL_WINDOWS,
    OPTIONS,
    compare,
    make_inputs,
)
from helpers.errors import assert_as_good, draws_for, pooled_errors
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run

from swin_backbone import SwinBackbone
from swin_backbone.ops.triton import row_attention_op
from swin_backbone.ops.triton.attention_op import window_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("window_size", "shift_size"), ALL_WINDOWS)
@pytest.mark.parametrize("size", [(1, 1), (6, 7), (15, 29), (64, 65), (128, 128)])
@pytest.mark.parametrize(("heads", "head_dim"), [(3, 32), (2, 16), (1, 64)])
def test_full_grid(size, window_size, shift_size, dtype, heads, head_dim):
    batch = max(2, draws_for(size[0] * size[1]))
    kernels, reference = compare(size, window_size, shift_size, dtype, heads, head_dim, batch)
    assert_as_good(kernels, reference, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("cosine", "masked"), OPTIONS)
@pytest.mark.parametrize(("window_size", "shift_size"), ALL_WINDOWS)
@pytest.mark.parametrize("size", [(6, 7), (15, 29), (64, 65)])
@pytest.mark.parametrize("head_dim", [32, 64])
def test_cosine_and_valid_sizes_on_a_gpu(
    size, window_size, shift_size, dtype, cosine, masked, head_dim
):
    heads = 12  # a factor for each is what there is the least of
    kernels, reference = compare(
        size, window_size, shift_size, dtype, heads, head_dim, cosine=cosine, masked=masked,
        draws=draws_for(heads),
    )  # fmt: skip
    assert_as_good(kernels, reference, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [9, 12])
def test_dropout_by_whole_rows_of_scores(monkeypatch, window, dtype):
    """Drops what blocks of scores drop: these in float32 are the measure of both in 16 bits, and
    whole rows err no more than 1.5 times as much. The same bits again."""
    qkv, table, padding = make_inputs((64, 60), (window, window), heads=3, head_dim=32, batch=2)
    seed = torch.tensor([5], device=DEVICE)
    cotangent = torch.randn(*qkv.shape[:-1], 96, device=DEVICE).to(dtype)
    sizes = [window, window, window // 2, window // 2]
    drawn = [qkv.to(dtype), table, padding.to(dtype)]

    def differentiate(dtype):
        tensors = [drawn[0].to(dtype), table.clone(), drawn[2].to(dtype)]
        tensors = [tensor.requires_grad_() for tensor in tensors]
        out = window_attention(*tensors, None, None, None, seed, sizes, 32**-0.5, 0.4)
        gradients = torch.autograd.grad(out, tensors, cotangent.to(dtype))
        return [tensor.float() for tensor in (out.detach(), *gradients)]

    rows = differentiate(dtype)
    assert all(map(torch.equal, rows, differentiate(dtype)))
    monkeypatch.setattr(row_attention_op, "MOST_TOKENS", 0)
    blocks, exact = differentiate(dtype), differentiate(torch.float32)
    assert not all(map(torch.equal, rows, blocks)), "whole rows did not run"
    for ours, other, right in zip(rows, blocks, exact, strict=True):
        assert (ours - right).norm() <= 1.5 * (other - right).norm()


def draw_like_trained(model):
    """Values of the size that trained weights have, so that rounding is not magnified."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.1)
        elif "logit_scale" not in name:
            torch.nn.init.normal_(parameter, std=0.1)


def differentiate_drawn_models(version, window_size, mask_padding):
    """Maps and gradients of a drawn model and batch by three means: the kernels and the reference
    in bfloat16, and the reference in float64."""
    options = {"embed_dims": 32, "depths": (2, 2), "num_heads": (1, 2), "out_indices": (0, 1)}
    options |= {
        "version": version,
        "window_size": window_size,
        "mask_padding": mask_padding,
        "strides": (4, 2),
    }
    options["drop_path_rate"] = 0.0
    drawn = SwinBackbone(**options, backend="reference").double().to(DEVICE)
    draw_like_trained(drawn)
    images = torch.randn(2, 3, 117, 90, device=DEVICE)
    sizes = torch.tensor([[117, 71], [60, 90]]) if mask_padding else None
    cotangents = [torch.randn(2, 32, 30, 23), torch.randn(2, 64, 15, 12)]

    def differentiate(backend, dtype):
        model = SwinBackbone(**options, backend=backend).to(DEVICE, dtype)
        model.load_state_dict(drawn.state_dict())
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype != torch.float64):
            maps = model(images.to(dtype), sizes)
        sum((m * w.to(m)).sum() for m, w in zip(maps, cotangents, strict=True)).backward()
        results = {f"map {index}": m.detach() for index, m in enumerate(maps)}
        return results | {name: p.grad for name, p in model.named_parameters()}

    ways = ("triton", torch.float32), ("reference", torch.float32), ("reference", torch.float64)
    return [differentiate(*way) for way in ways]


@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize(
    ("version", "window_size"), [("v1", 7), ("v1", 12), ("v2", 8), ("v2", 16), ("v2", 24)]
)
def test_a_whole_model_errs_no_more_than_the_reference_under_autocast(
    version, window_size, mask_padding
):
    """Maps and gradients within 1.5 times the reference backend's own error in bfloat16, against
    float64; over 64 draws, as all gradients of a draw follow from the same few rounded steps."""
    drawn = [differentiate_drawn_models(version, window_size, mask_padding) for _ in range(64)]
    kernels, reference, exact = (
        [list(results.values()) for results in way] for way in zip(*drawn, strict=True)
    )
    errors = zip(
        drawn[0][0], pooled_errors(kernels, exact), pooled_errors(reference, exact), strict=True
    )
    worse = {name: (fast, plain) for name, fast, plain in errors if not fast <= 1.5 * plain}
    assert not worse
