"""Positional encodings that are kept, against mmdet's."""

import copy

import pytest
import torch
from helpers.paths import ROOT
from helpers.small_detector import small_detector

import swin_backbone

pytest.importorskip("mmdet")

from mmdet.models.layers import SinePositionalEncoding
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.registry import DefaultScope

from swin_backbone.acceleration.mmdet_positional_encodings import without_padding

CONFIG = ROOT / "configs" / "swin_det" / "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py"
SETTINGS = [{}, {"normalize": True}, {"normalize": True, "offset": -0.5, "temperature": 20}]


def pair(**settings):
    stock = SinePositionalEncoding(8, **settings)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert [row.rewrite for row in report.replaced] == ["positional_encodings"]
    return stock, fast, report


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_of_maps_and_of_blank_masks(settings, batch):
    stock, fast, report = pair(**settings)
    for rows, columns in [(5, 7), (6, 4), (5, 7)]:
        blank = torch.zeros(batch, rows, columns, dtype=torch.bool)
        map_ = torch.randn(batch, 3, rows, columns, dtype=torch.float64)
        right = stock(blank)
        with without_padding(fast):
            found = fast(blank)
        for one, other in ((found, right), (fast(None, input=map_), stock(None, input=map_))):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
            assert torch.equal(one, right)
            assert one.stride() == other.stride()
        found.zero_()  # nobody else has this memory
    report.revert()
    assert "forward" not in vars(fast)


def test_masks_that_may_have_padding_are_read():
    stock, fast, _ = pair(normalize=True)
    mask = torch.rand(2, 5, 7) < 0.3
    with without_padding(stock):  # of another module
        assert torch.equal(fast(mask), stock(mask))
    with without_padding(fast):
        fast(torch.zeros_like(mask))
    assert torch.equal(fast(mask), stock(mask))


def test_settings_that_change():
    stock, fast, _ = pair(normalize=True)
    map_ = torch.randn(1, 3, 5, 7)
    fast(None, input=map_)
    stock.temperature = fast.temperature = 30
    assert torch.equal(fast(None, input=map_), stock(None, input=map_))


def test_what_is_made_in_inference_mode_is_not_kept():
    _, fast, _ = pair()
    map_ = torch.randn(1, 3, 5, 7)
    with torch.inference_mode():
        fast(None, input=map_)
    weight = torch.ones(1, requires_grad=True)
    (fast(None, input=map_) * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("train", [True, False])
def test_masks_and_scores_of_a_head(train, monkeypatch):
    """Of Mask2Former: the same bits, and no encoding of a size that was there before."""
    register_all_modules(init_default_scope=False)
    config = small_detector(CONFIG).model
    head = config.panoptic_head
    head.update(train_cfg=config.train_cfg, test_cfg=config.test_cfg)
    with DefaultScope.overwrite_default_scope("mmdet"):
        stock = MODELS.build(head).train(train)
    stock.init_weights()
    fast, plain = copy.deepcopy(stock), copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    names = [row.modules for row in report.replaced if row.rewrite == "positional_encodings"]
    assert {name for group in names for name in group} == {
        "", "pixel_decoder.postional_encoding", "decoder_positional_encoding",
    }  # fmt: skip
    swin_backbone.accelerate(plain, positional_encodings=False)
    calls, forward = [], SinePositionalEncoding.forward
    monkeypatch.setattr(
        SinePositionalEncoding, "forward", lambda *given: calls.append(1) or forward(*given)
    )
    for seed in range(2):
        torch.manual_seed(seed)
        channels = zip(config.panoptic_head.in_channels, (4, 8, 16, 32), strict=True)
        maps = [torch.randn(2, number, 64 // s, 96 // s) for number, s in channels]
        for one, other in zip(fast(maps, []), plain(maps, []), strict=True):
            assert all(map(torch.equal, one, other))
        assert len(calls) == (12 if seed == 0 else 6)
        calls.clear()
