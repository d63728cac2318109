"""What accelerated blocks multiply their branches with: as each library's own drop path."""

import importlib

import pytest
import torch
from torch import nn

from swin_backbone.acceleration.swin.drop_paths import path_scale

KINDS = [
    ("timm.layers", "DropPath", {}),
    ("timm.layers", "DropPath", {"scale_by_keep": False}),
    ("torchvision.ops", "StochasticDepth", {"mode": "row"}),
    ("transformers.models.swin.modeling_swin", "SwinDropPath", {}),
    ("transformers.models.swinv2.modeling_swinv2", "Swinv2DropPath", {}),
    ("transformers.models.maskformer.modeling_maskformer_swin", "MaskFormerDropPath", {}),
    ("transformers.models.donut.modeling_donut_swin", "DonutDropPath", {}),
    ("mmcv.cnn.bricks", "DropPath", {}),
]


class DropPath(nn.Module):
    """Draws in another way than any library."""

    def __init__(self, drop_prob):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        return x * (torch.randn(len(x), 1, 1) > 0)


def compare(module, dtype):
    x = torch.randn(200, 2, 2, 4, dtype=dtype)
    factors, numbers = [], []
    for run in (lambda: path_scale(module, x), lambda: module(x.new_ones(200, 1, 1))):
        torch.manual_seed(0)
        factors.append(run().flatten().double())
        numbers.append(torch.rand(1))
    assert factors[1].unique().numel() == 2
    assert torch.allclose(*factors, rtol=torch.finfo(dtype).eps)
    assert torch.equal(*numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 0.4])
@pytest.mark.parametrize(("place", "name", "options"), KINDS)
def test_the_same_images_are_dropped(place, name, options, rate, dtype):
    """From the same random numbers, and as many of them."""
    module = pytest.importorskip(place.split(".")[0]) and importlib.import_module(place)
    compare(getattr(module, name)(rate, **options).train(), dtype)


def test_a_class_that_draws_otherwise_draws_by_itself():
    compare(DropPath(0.5).train(), torch.float32)


def test_nothing_is_drawn_in_evaluation():
    before = torch.random.get_rng_state()
    assert path_scale(DropPath(0.5).eval(), torch.ones(2, 1)) is None
    assert torch.equal(before, torch.random.get_rng_state())
