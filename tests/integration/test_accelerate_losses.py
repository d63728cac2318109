"""Losses of accelerated segmentors against the stock ones, and what a report says."""

import copy

import pytest
import torch
from helpers.segmentors import HEADS, LOSS, batch, segmentor

from swin_backbone import accelerate
from swin_backbone.acceleration import channels_last

# Sums of some thousand float64 terms, taken in another order.
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
# mmseg takes labels as float32 to binary cross entropy, which then is one.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


def losses_and_gradients(model, images, samples):
    model.train()
    model.zero_grad()
    losses = model.loss(images, samples)
    sum(value.sum() for name, value in losses.items() if "loss" in name).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return {name: value.detach() for name, value in losses.items()}, gradients


def assert_same(stock, fast, images, samples, tolerance=TOLERANCE):
    expected, gradients = losses_and_gradients(stock, images, samples)
    losses, found = losses_and_gradients(fast, images, samples)
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        assert value.shape == expected[name].shape
        own = FLOAT32 if "acc" in name else tolerance  # accuracy is one for mmseg and for us
        torch.testing.assert_close(value.double(), expected[name].double(), **own)
    for name, gradient in found.items():
        assert (gradient is None) == (gradients[name] is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, gradients[name], **tolerance)


@pytest.mark.parametrize("sizes", [(32, 40), (33, 29)], ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_losses_and_gradients_are_those_of_the_stock_model(head, align_corners, sizes):
    stock = segmentor(head, align_corners=align_corners).double()
    fast = copy.deepcopy(stock)
    report = accelerate(fast)
    assert any(row.rewrite == "losses" for row in report.replaced)
    assert_same(stock, fast, *batch(sizes, seed=hash((head, align_corners, sizes)) % 1000))


LOSSES = {
    "non-ignored": {**LOSS, "avg_non_ignore": True},
    "class weights": {**LOSS, "class_weight": [0.5, 1.0, 2.0, 1.5, 0.1]},
    "sum": {**LOSS, "reduction": "sum"},
    "sigmoid": {**LOSS, "use_sigmoid": True},
    "sigmoid, non-ignored": {**LOSS, "use_sigmoid": True, "avg_non_ignore": True},
    "two": [LOSS, {"type": "DiceLoss", "loss_name": "loss_dice", "ignore_index": 255}],
    "twice": [LOSS, {**LOSS, "loss_weight": 3.0}],
    "of another kind": {"type": "TverskyLoss", "ignore_index": 255},
}


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1], ids=["none", "some", "all of an image"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_setting_of_cross_entropy(loss, ignored):
    import mmseg

    if loss == "class weights" and ignored and mmseg.__version__ < "1.3":
        pytest.skip(f"mmseg {mmseg.__version__} looks up the ignored label, and fails")
    stock = segmentor(loss_decode=LOSSES[loss]).double()
    fast = copy.deepcopy(stock)
    accelerate(fast)
    tolerance = FLOAT32 if "sigmoid" in loss else TOLERANCE
    assert_same(stock, fast, *batch((30, 34), ignored=ignored), tolerance)


def test_scores_that_a_sampler_weighs():
    sampler = {"type": "OHEMPixelSampler", "thresh": 0.5, "min_kept": 100}
    stock = segmentor(sampler=sampler).double()
    fast = copy.deepcopy(stock)
    accelerate(fast)
    assert_same(stock, fast, *batch((32, 32)))


@pytest.mark.filterwarnings("ignore:For binary segmentation")
def test_one_class():
    stock = segmentor(
        auxiliary=False, num_classes=2, out_channels=1, threshold=0.4,
        loss_decode={**LOSS, "use_sigmoid": True},
    ).double()  # fmt: skip
    fast = copy.deepcopy(stock)
    accelerate(fast)
    assert_same(stock, fast, *batch((32, 40), classes=2), FLOAT32)


def test_reverting_leaves_the_stock_model():
    model = segmentor()
    before = {name: vars(module).copy() for name, module in model.named_modules()}
    keys = list(model.state_dict())
    report = accelerate(model)
    assert list(model.state_dict()) == keys
    report.revert()
    report.revert()
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()


def test_a_copy_of_an_accelerated_model_is_its_own():
    model = segmentor().double()
    accelerate(model)
    clone = copy.deepcopy(model)
    with torch.no_grad():
        clone.decode_head.conv_seg.weight.zero_()
    images, samples = batch((32, 32))
    assert (
        clone.loss(images, samples)["decode.loss_ce"]
        != model.loss(images, samples)["decode.loss_ce"]
    )


def test_the_report_says_what_was_left_and_why():
    model = segmentor()
    kind = type(model.decode_head)

    class OwnLoss(kind):
        def loss_by_feat(self, seg_logits, batch_data_samples):
            return super().loss_by_feat(seg_logits, batch_data_samples)

    model.decode_head.__class__ = OwnLoss
    report = accelerate(model)
    reasons = [row.reason for row in report.left if "decode_head" in row.modules]
    assert "OwnLoss has a loss_by_feat of its own" in reasons
    assert "OwnLoss has a loss_by_feat of its own" in str(report)
    again = accelerate(model, losses=True)
    assert not again.replaced
    assert any("was replaced" in row.reason for row in again.left)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="model must be"):
        accelerate("model")
    with pytest.raises(ValueError, match=r"switches.*loses"):
        accelerate(torch.nn.Linear(1, 1), loses=True)
    with pytest.raises(TypeError, match="losses must be"):
        accelerate(torch.nn.Linear(1, 1), losses=1)


def test_a_model_that_is_not_known_stays_as_it_is():
    report = accelerate(torch.nn.Linear(1, 1))
    assert str(report) == "nothing in this model is known to accelerate"


def test_weights_change_their_layout_in_memory_alone():
    model = segmentor()
    patches = model.backbone.patch_embed.projection
    assert not channels_last.finds(patches)  # kernels read it as it lies
    convolution = model.decode_head.bottleneck.conv
    before = convolution.weight.detach().clone()
    weight = convolution.weight
    undo = channels_last.apply(convolution)
    assert convolution.weight is weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, before)
    undo()
    assert weight.is_contiguous()
    assert torch.equal(weight, before)


def test_what_cannot_change_its_layout_says_why():
    convolution = torch.nn.Conv2d(3, 4, 3)
    assert channels_last.why_not(convolution) == "it is not on a GPU"
    convolution.weight = torch.nn.Parameter(convolution.weight.detach().flatten())
    assert channels_last.why_not(convolution) == "its weight is sharded"


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_loss_that_is_watched_is_called(kind):
    model = segmentor(auxiliary=False).double()
    called = []
    hooks = getattr(model.decode_head.loss_decode, f"register_{kind}_hook")
    hooks(lambda *_: called.append(kind))
    accelerate(model)
    images, samples = batch((32, 32))
    model.loss(images, samples)["decode.loss_ce"].backward()
    assert called == [kind]
