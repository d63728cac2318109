"""Sizes of feature maps that stay on the host, in mmdet's DINO."""

import copy

import pytest
import torch
from helpers.paths import ROOT
from helpers.small_detector import small_detector

import swin_backbone

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.registry import DefaultScope

CONFIG = ROOT / "configs" / "swin_det" / "dino-4scale_swin-t-p4-w7_8xb2-12e_coco.py"
SIZES = [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.fixture(scope="module")
def stock():
    """Nobody may change it."""
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(small_detector(CONFIG).model)
    model.init_weights()
    return model.eval()


def accelerated(model):
    fast = copy.deepcopy(model)
    report = swin_backbone.accelerate(fast)
    assert "feature_sizes" in {row.rewrite for row in report.replaced}
    return fast, report


def samples_of(shapes):
    metas = [{"img_shape": shape, "batch_input_shape": (128, 192)} for shape in shapes]
    return [DetDataSample(metainfo=meta) for meta in metas]


def passed(model, shapes, seed=0, dtype=torch.float32):
    """What the encoder gives, and the proposals from it."""
    torch.manual_seed(seed)
    maps = [torch.randn(len(shapes), 256, *size, dtype=dtype) for size in SIZES]
    given, _ = model.pre_transformer(maps, samples_of(shapes))
    encoded = model.forward_encoder(**given)
    found = model.gen_encoder_output_proposals(**encoded)
    return [encoded["memory"], *found]


SHAPES = {
    "whole": [(128, 192), (128, 192)],
    "padded": [(100, 192), (128, 150)],
    "one": [(128, 192)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_the_same_bits(stock, shapes, dtype):
    model = copy.deepcopy(stock).to(dtype)
    fast, report = accelerated(model)
    # Attention sums in an order of its own, so that the encoder stays as it is.
    fast.encoder.layers = copy.deepcopy(model.encoder.layers)
    for seed in (0, 1):
        for one, other in zip(
            passed(fast, shapes, seed, dtype), passed(model, shapes, seed, dtype), strict=True
        ):
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            assert torch.equal(one, other)
    report.revert()
    assert "pre_transformer" not in vars(fast)
    assert "get_encoder_reference_points" not in vars(fast.encoder)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_nobody_reads_sizes_from_the_device(stock, shapes):
    """What lies there is made wrong, and nobody notices."""
    fast, _ = accelerated(stock)
    found = []
    for model in (stock, fast):
        torch.manual_seed(0)
        maps = [torch.randn(len(shapes), 256, *size) for size in SIZES]
        given, _ = model.pre_transformer(maps, samples_of(shapes))
        sizes = given["spatial_shapes"]
        if model is fast:
            sizes.zero_()
        points = model.encoder.get_encoder_reference_points(sizes, given["valid_ratios"], "cpu")
        memory = given["feat"], given["feat_mask"], sizes
        found.append([points, *model.gen_encoder_output_proposals(*memory)])
    assert all(map(torch.equal, *found))


def test_tables_of_sizes_are_copied_once(stock, monkeypatch):
    fast, _ = accelerated(stock)
    passed(fast, SHAPES["one"])
    calls, table = [], torch._shape_as_tensor
    monkeypatch.setattr(torch, "_shape_as_tensor", lambda one: calls.append(one) or table(one))
    passed(fast, SHAPES["one"])
    assert not calls
    passed(stock, SHAPES["one"])
    assert len(calls) == len(SIZES)


def test_kept_proposals_are_not_changed_by_who_gets_them(stock):
    fast, _ = accelerated(stock)
    first = passed(fast, SHAPES["one"])
    expected = first[2].clone()
    first[1].zero_()
    first[2].zero_()
    assert torch.equal(passed(fast, SHAPES["one"])[2], expected)


def test_training_follows_what_was_predicted_without_gradients(stock):
    """What was made in inference mode cannot be part of a graph of gradients."""
    fast, _ = accelerated(stock)
    with torch.inference_mode():
        expected = passed(fast, SHAPES["whole"])
    found = passed(fast, SHAPES["whole"])
    found[1].sum().backward()
    torch.testing.assert_close([one.detach() for one in found], expected)


def test_a_detector_with_proposals_of_its_own_is_left(stock):
    model = copy.deepcopy(stock)
    own = type("Own", (type(model),), {"gen_encoder_output_proposals": lambda *given: given})
    model.__class__ = own
    (row,) = [row for row in swin_backbone.accelerate(model).left if row.rewrite == "feature_sizes"]
    assert "gen_encoder_output_proposals" in row.reason
