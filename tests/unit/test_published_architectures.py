"""Which kernels each published architecture takes: none is without them, and the docs say which."""

import functools
import re

import pytest
import torch
from helpers.paths import ROOT
from helpers.triton_kernels import (  # skips first where no kernel can run
    DEVICE,
    let_kernels_run,
)

from swin_backbone import SwinBackbone, list_architectures, list_checkpoints
from swin_backbone.model.window_attention_v2 import WindowAttentionV2
from swin_backbone.ops import Windows, dispatch
from swin_backbone.ops.dispatch import why_not_fused
from swin_backbone.ops.triton import streamed_attention_op
from swin_backbone.ops.triton.attention_op import is_large, of_large_windows
from swin_backbone.ops.triton.streamed_attention_op import block_of

ARCHITECTURES = list_architectures()
#: And those of public checkpoints, of which some have windows of their own.
CONFIGS = {entry.name: entry.config() for entry in list_checkpoints()} | ARCHITECTURES
PAGE = (ROOT / "docs" / "performance.md").read_text()
ROW = re.compile(r"^\| (\d+)\D\1 \| ([\w ]+) \| (.+) \|$", re.MULTILINE)


@functools.cache
def build(name):
    with torch.device("meta"):
        return SwinBackbone(**{k: v for k, v in CONFIGS[name].items() if k != "init_cfg"})


def windows_of(block):
    """Geometry of a block's attention, on maps of any size."""
    fitted = block.attn.fit(None)
    return fitted if isinstance(fitted, Windows) else fitted[0]


def kinds(model):
    """Side of a window to what computes it, in the docs' words."""
    found = {}
    for stage in model.stages:
        windows = windows_of(stage.blocks[0])
        channels, heads = stage.blocks[0].norm1.normalized_shape[0], windows.num_heads
        qkv = torch.empty(1, 1, 1, 3 * channels, dtype=torch.bfloat16)
        name = "a window at once"
        if is_large(windows.window_size):
            name = "whole rows of scores"
            cosine = isinstance(stage.blocks[0].attn, WindowAttentionV2)
            if of_large_windows(qkv, heads, windows.window_size, cosine) is streamed_attention_op:
                block = block_of(windows.window_size, 3 * channels, heads, torch.bfloat16)
                name = f"blocks of {block} tokens"
        found[windows.window_size[0]] = name
    return found


@pytest.fixture(autouse=True)
def all_kernels_run():
    # Without, a card has no matrix units for float32, and kernels leave it to PyTorch.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_branches_of_every_block_are_fused(dtype):
    for name in CONFIGS:
        for stage in build(name).stages:
            block = stage.blocks[0]
            (channels,), hidden = block.norm1.normalized_shape, block.mlp.fc1.out_features
            x = torch.zeros(1, 2, 2, channels, dtype=dtype, device=DEVICE)
            assert why_not_fused(x, "triton", windows_of(block)) is None, name
            assert why_not_fused(x, "triton", hidden=hidden) is None, name


def test_what_lies_between_blocks_is_fused(monkeypatch):
    """Patch embedding and merging, of every architecture as it is trained: in 16 bits."""
    let_kernels_run(monkeypatch)
    for name in CONFIGS:
        model = build(name)
        weight = model.patch_embed.projection.weight
        weight = torch.empty(weight.shape, dtype=torch.bfloat16, device=DEVICE)
        image = torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16, device=DEVICE)
        assert dispatch.patch_embedding(image, weight) == "triton", name
        for stage in model.stages[1:]:
            channels = 2 * stage.blocks[0].norm1.normalized_shape[0]
            x = torch.zeros(1, 2, 2, channels // 4, dtype=torch.bfloat16, device=DEVICE)
            assert dispatch.patch_merging(x, channels) == "triton", name


def test_the_docs_say_which_kernels():
    rows = {
        (int(side), kind): set(re.findall(r"`(\w+)`", names))
        for side, kind, names in ROW.findall(PAGE)
    }
    expected = {}
    for name in ARCHITECTURES:
        for row in kinds(build(name)).items():
            expected.setdefault(row, set()).add(name)
    assert rows == expected
