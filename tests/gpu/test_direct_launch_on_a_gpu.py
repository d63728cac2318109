"""Kernels that are started directly, and by Triton's own launch: the same bits."""

import pytest
import torch

from swin_backbone import SwinBackbone
from swin_backbone.ops.triton import direct_launch, launch


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"embed_dims": 32, "depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2)}
    return SwinBackbone(**options, out_indices=(0, 1), drop_path_rate=0.0).cuda()


def maps_and_gradients(model, images):
    with torch.autocast("cuda", torch.bfloat16):
        maps = model(images)
    loss = sum(features.float().square().mean() for features in maps)
    return [*maps, *torch.autograd.grad(loss, list(model.parameters()))]


def run(model, images, mode, monkeypatch):
    """With nothing compiled before, twice: what was compiled is started at the second call."""
    monkeypatch.setenv(direct_launch.VARIABLE, mode)
    monkeypatch.setattr(launch, "_VARIANTS", {})
    for cached in vars(launch).values():
        getattr(cached, "cache_clear", lambda: None)()
    clear_launches()
    for _ in range(2):
        results = maps_and_gradients(model, images)
    starts = [start for variant in launch._VARIANTS.values() for start in variant.values()]
    return results, starts


def clear_launches():
    """Launches are remembered by shape, each with what was compiled for it."""
    from swin_backbone.ops.triton import norm_op, residual_attention_op, residual_mlp_op

    for module in (norm_op, residual_attention_op, residual_mlp_op):
        for value in list(vars(module).values()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def test_both_ways_give_the_same_bits(model, monkeypatch):
    images = torch.randn(2, 3, 60, 44, device="cuda")
    direct, starts = run(model, images, "1", monkeypatch)
    assert any(callable(start) for start in starts)
    plain, starts = run(model, images, "0", monkeypatch)
    assert not any(callable(start) for start in starts)
    for a, b in zip(direct, plain, strict=True):
        assert torch.equal(a, b)
