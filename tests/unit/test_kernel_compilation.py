"""How often kernels are compiled."""

import random

import pytest
import torch
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run

from swin_backbone import SwinBackbone
from swin_backbone.ops.triton import launch
from swin_backbone.ops.triton.kernels.attention_kernels import attention_backward, attention_forward
from swin_backbone.ops.triton.kernels.norm_kernels import norm_backward, norm_forward
from swin_backbone.ops.triton.launch import Launch

SMALL = {"embed_dims": 32, "depths": (2, 2), "num_heads": (1, 2), "strides": (4, 2)}


@pytest.fixture
def variants(monkeypatch):
    """What would have been compiled; kernels are not started."""
    launch.forget_launches()
    monkeypatch.setattr(launch, "VARIANTS", {})
    monkeypatch.setattr(Launch, "__call__", lambda self, *tensors: None)
    return launch.VARIANTS


def step(model, height, width, batch=2):
    x = torch.zeros(batch, 3, height, width, device=DEVICE)
    takes_sizes = model.mask_padding or model.packed
    sizes = torch.tensor([[height, width]] * batch) if takes_sizes else None
    with torch.autocast(DEVICE, torch.bfloat16):
        maps = model(x, sizes)
    sum(m.float().mean() for m in maps).backward()


@pytest.mark.parametrize("options", [{}, {"mask_padding": True}, {"packed": True}])
def test_images_of_many_sizes_share_kernels(variants, options):
    model = SwinBackbone(
        **SMALL, out_indices=(0, 1), drop_path_rate=0.1, backend="triton", **options
    ).train().to(DEVICE)  # fmt: skip
    step(model, 512, 512)
    known = set(variants)
    for _ in range(10):
        step(model, random.randint(64, 700), random.randint(64, 700), batch=random.randint(1, 3))
    new = {variant[0] for variant in set(variants) - known}
    assert not new & {attention_forward, attention_backward, norm_forward, norm_backward}


class Kernel:
    """One of which ``rows`` is a size, and ``pixels`` is not."""

    arg_names = ("tensor", "rows", "pixels", "CHANNELS")
    sizes = frozenset(["rows"])


KERNEL = Kernel()


@pytest.mark.parametrize(
    ("rows", "pixels", "is_shared"),
    [(1, 7, True), (64, 7, True), (2**31, 7, False), (5, 9, True), (5, 1, False), (5, 16, False)],
)
def test_which_numbers_have_kernels_of_their_own(variants, rows, pixels, is_shared):
    Launch(KERNEL, (1,), (5, 7), {"CHANNELS": 32}, {})
    Launch(KERNEL, (1,), (rows, pixels), {"CHANNELS": 32}, {})
    assert len(variants) == (1 if is_shared else 2)


def test_what_was_measured_in_16_bits_is_for_16_bits():
    listed, general = launch.CONFIGS["mlp_backward", 192], launch.CONFIGS["mlp_backward", None]
    assert listed != general  # or the test shows nothing
    assert launch.config("mlp_backward", 192, torch.bfloat16) == listed
    assert launch.config("mlp_backward", 192, torch.float32) == general
    assert launch.config("mlp_backward", 64, torch.bfloat16) == general
