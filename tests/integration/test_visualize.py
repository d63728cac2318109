"""Pictures of what a backbone sees: each panel shows what it says."""

import math

import numpy as np
import pytest
import torch
from helpers.tools import call_tool
from PIL import Image

from swin_backbone import create
from swin_backbone.inference.preprocessing import IMAGENET
from swin_backbone.inference.visualization.attention_maps import (
    bias_maps,
    token_attention,
)
from swin_backbone.inference.visualization.feature_maps import (
    norms,
    principal_colours,
    receptive_field,
)
from swin_backbone.inference.visualization.sheet import feature_sheet, record_stages
from swin_backbone.model import SwinBlock, WindowAttention, WindowAttentionV2
from swin_backbone.ops import WindowGrid
from swin_backbone.ops.geometry.windows import (
    partition_windows,
    relative_position_bias,
    shifted_window_mask,
)

BACKBONE = {
    "type": "SwinBackbone",
    "embed_dims": 8,
    "depths": (2, 1),
    "num_heads": (2, 2),
    "strides": (4, 2),
    "out_indices": (0, 1),
}


def attention_module(shift_size, window_size=(3, 5), kind=WindowAttention):
    module = kind(8, 2, window_size, shift_size).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def weights_by_definition(module, x, token):
    """Softmax of the scores within the window that holds the token, put back on the map."""
    _, height, width, channels = x.shape
    grid = WindowGrid(height, width, module.window_size, module.shift_size)
    padded = torch.zeros(1, grid.padded_height, grid.padded_width, channels, dtype=x.dtype)
    padded[:, :height, :width] = x
    place = torch.arange(grid.padded_height * grid.padded_width)
    place = place.view(1, grid.padded_height, grid.padded_width, 1)
    shift = [-step for step in module.shift_size]
    places = partition_windows(torch.roll(place, shift, (1, 2)), grid)[0, :, :, 0]
    tokens = partition_windows(torch.roll(padded, shift, (1, 2)), grid)[0]
    window, query = (places == token[0] * grid.padded_width + token[1]).nonzero()[0]
    if isinstance(module, WindowAttentionV2):
        qkv = torch.nn.functional.linear(tokens[window], module.qkv.weight, module.qkv_bias())
        q, k, _ = qkv.view(-1, 3, 2, 4).permute(1, 2, 0, 3)
        scores = torch.nn.functional.cosine_similarity(q[:, :, None], k[:, None], dim=-1)
        scores = scores * module.logit_scale.clamp(max=math.log(100)).exp()
        table = module.cpb_mlp(module.window_size)
    else:
        q, k, _ = module.qkv(tokens[window]).view(-1, 3, 2, 4).permute(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2) * module.scale
        table = module.relative_position_bias_table
    scores = scores + relative_position_bias(table, module.window_size)
    forbidden = shifted_window_mask(grid)[window]
    weights = scores.masked_fill(forbidden, float("-inf")).softmax(-1)[:, query]
    result = torch.zeros(2, grid.padded_height * grid.padded_width, dtype=x.dtype)
    result[:, places[window]] = weights
    return result.view(2, grid.padded_height, grid.padded_width)[:, :height, :width]


@pytest.mark.parametrize("shift_size", [(0, 0), (1, 2)])
@pytest.mark.parametrize("token", [(0, 0), (4, 6), (7, 12)])
@pytest.mark.parametrize("kind", [WindowAttention, WindowAttentionV2])
def test_weights_of_a_token_are_those_of_its_window(kind, shift_size, token):
    torch.manual_seed(0)
    module = attention_module(shift_size, kind=kind)
    x = torch.randn(1, 8, 13, 8, dtype=torch.float64)
    actual = token_attention(module.attention_call(x), token)
    expected = weights_by_definition(module, x, token)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_a_token_outside_of_the_map_is_refused():
    call = attention_module((0, 0)).attention_call(torch.randn(1, 4, 4, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="token must be on the map of 4x4"):
        token_attention(call, (4, 0))


def test_a_block_says_what_its_attention_gets():
    block = SwinBlock(attention_module((1, 2)).float(), 8, 16).eval()
    seen = []
    block.attn.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    x = torch.randn(1, 5, 6, 8)
    block(x)
    torch.testing.assert_close(block.attention_input(x), seen[0])


def test_bias_maps_are_ordered_by_offset():
    module = attention_module((0, 0))
    maps = bias_maps(module.attention_call(torch.randn(1, 3, 5, 8, dtype=torch.float64)))
    bias = relative_position_bias(module.relative_position_bias_table, (3, 5))
    assert maps.shape == (2, 5, 9)
    # the query at (2, 0) of a window sees the key at (0, 4): offset (2, -4)
    torch.testing.assert_close(maps[:, 2 + 2, -4 + 4], bias[:, 2 * 5 + 0, 4])


def test_principal_colours_follow_the_largest_variance():
    features = torch.zeros(6, 4, 5)
    features[2] = torch.linspace(-3, 3, 20).view(4, 5)
    colours = principal_colours(features)
    assert colours.shape == (4, 5, 3)
    order = colours[..., 0].flatten().argsort()
    assert torch.equal(order[2:-2], torch.arange(20)[2:-2])  # the ends are cut at percentiles
    assert float(principal_colours(torch.ones(6, 4, 5)).max()) == 0


def test_norms_are_euclidean():
    features = torch.randn(6, 4, 5)
    torch.testing.assert_close(norms(features), (features**2).sum(0).sqrt())


def test_receptive_field_of_the_first_stage_is_two_windows_wide():
    """A regular and then a shifted window of 3 tokens of 4 pixels: within 5 tokens, not beyond."""
    torch.manual_seed(0)
    model = create(BACKBONE, window_size=3)
    field = receptive_field(model, torch.randn(1, 3, 96, 96), 0)
    rows = (field > 0).any(dim=1).nonzero().flatten()
    centre = 4 * (96 // 4 // 2)
    assert rows.min() >= centre - 4 * 5
    assert rows.max() < centre + 4 * 6
    assert len(rows) > 4 * 3  # more than one window
    deeper = receptive_field(model, torch.randn(1, 3, 96, 96), 1)
    assert (deeper > 0).sum() > (field > 0).sum()


@pytest.mark.parametrize("size", [(1, 1), (9, 50), (64, 48)])
def test_sheet_of_an_image_of_any_size(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    sheet = feature_sheet(create(BACKBONE), IMAGENET, image, cell=60)
    assert sheet.width > 2 * 60
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize(
    "options", [{"version": "v2"}, {"mask_padding": True}, {"packed": True}], ids=str
)
def test_sheet_of_a_backbone_of_any_kind(options):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    sheet = feature_sheet(create(BACKBONE, **options), IMAGENET, image, cell=60)
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100


def test_attention_of_a_masked_backbone_leaves_nothing_to_padding():
    """One image, whose windows are filled up: without the mask, the fill takes a part."""
    totals = {}
    for masked in (False, True):
        model = create(BACKBONE, mask_padding=masked)
        calls, _, _ = record_stages(model, torch.randn(1, 3, 40, 50))
        totals[masked] = token_attention(calls[0][0], (9, 11)).sum(dim=(1, 2))
    torch.testing.assert_close(totals[True], torch.ones(2), rtol=1e-5, atol=0)
    assert (totals[False] < 0.9).all()


def test_a_pixel_outside_of_the_image_is_refused():
    with pytest.raises(ValueError, match="pixel must lie in the image of 8x9"):
        feature_sheet(create(BACKBONE), IMAGENET, np.zeros((8, 9, 3), np.uint8), (8, 0))


def test_tool_writes_a_sheet(tmp_path):
    config, image = tmp_path / "tiny.py", tmp_path / "image.png"
    config.write_text(f"model = dict(backbone={BACKBONE!r})\n")
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(image)
    out = tmp_path / "a" / "sheet.png"
    call_tool("visualize.py", config, "random", image, "--out", out, "--cell", 50)
    assert Image.open(tmp_path / "a" / "sheet.png").width > 100
