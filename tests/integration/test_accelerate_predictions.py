"""Predictions of accelerated segmentors against the stock ones: whole, in windows, augmented."""

import copy

import pytest
import torch
from helpers.segmentors import HEADS, batch, segmentor

from swin_backbone import accelerate
from swin_backbone.acceleration import mmseg_predictions
from swin_backbone.ops import banded_argmax as resized_bands


def both(model, images, samples):
    """Class maps of the stock and of the accelerated model, and the stock one's scores."""
    fast = copy.deepcopy(model)
    report = accelerate(fast)
    assert any(row.rewrite == "predictions" for row in report.replaced)
    with torch.no_grad():
        expected = model.eval().predict(images, [sample.clone() for sample in samples])
        found = fast.eval().predict(images, [sample.clone() for sample in samples])
    return expected, found


def assert_same_classes(expected, found):
    """Equal, but where the two best scores tie within rounding: in float64, nowhere to be seen."""
    for stock, fast in zip(expected, found, strict=True):
        assert "seg_logits" not in fast
        labels, own = stock.pred_sem_seg.data, fast.pred_sem_seg.data
        assert own.shape == labels.shape
        assert own.dtype == labels.dtype
        assert torch.equal(own, labels)


@pytest.mark.parametrize("head", HEADS)
def test_whole_images(head):
    images, samples = batch((40, 33), ori_shape=(61, 47))
    assert_same_classes(*both(segmentor(head).double(), images, samples))


@pytest.mark.parametrize("flip", [None, "horizontal", "vertical"])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (3, 5, 2, 7)], ids=["whole", "padded"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_padding_flips_and_windows(monkeypatch, mode, align_corners, padding, flip):
    monkeypatch.setattr(resized_bands, "BAND", 5 * 61 * 7)  # bands of seven rows
    model = segmentor(align_corners=align_corners).double()
    if mode == "slide":
        model.test_cfg.update(mode="slide", crop_size=(24, 20), stride=(15, 13))
    images, samples = batch((40, 48), ori_shape=(53, 61))
    for sample in samples:
        sample.set_metainfo(
            {"padding_size": padding, "flip": flip is not None, "flip_direction": flip}
        )
    expected, found = both(model, images, samples)
    if mode == "whole":
        return assert_same_classes(expected, found)
    # Stock sums up windows, and ours too, in float32.
    wrong = [
        (a.pred_sem_seg.data != b.pred_sem_seg.data).float().mean()
        for a, b in zip(expected, found, strict=True)
    ]
    assert max(wrong) < 2e-3


def test_images_of_a_batch_that_end_at_different_sizes():
    images, samples = batch((32, 32))
    samples[1].set_metainfo({"ori_shape": (50, 41)})
    assert_same_classes(*both(segmentor().double(), images, samples))


def test_images_without_data_samples():
    model = segmentor().double().eval()
    images, _ = batch((32, 40))
    fast = copy.deepcopy(model)
    accelerate(fast)
    with torch.no_grad():
        assert_same_classes(model.predict(images), fast.predict(images))


@pytest.mark.filterwarnings("ignore:For binary segmentation")
def test_one_class():
    model = segmentor(auxiliary=False, num_classes=2, out_channels=1, threshold=0.5).double()
    images, samples = batch((32, 40), classes=2, ori_shape=(37, 61))
    assert_same_classes(*both(model, images, samples))


def test_scores_are_kept_where_they_are_asked_for():
    model = segmentor().double()
    model.test_cfg.keep_logits = True
    accelerate(model)
    images, samples = batch((32, 40))
    with torch.no_grad():
        assert model.eval().predict(images, samples)[0].seg_logits.data.shape == (5, 32, 40)


@pytest.mark.filterwarnings("ignore:For binary segmentation")
@pytest.mark.parametrize("classes", [5, 1])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_augmented_images(monkeypatch, mode, classes):
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    monkeypatch.setattr(resized_bands, "BAND", 5 * 48 * 5)
    one = {"num_classes": 2, "out_channels": 1, "threshold": 0.6} if classes == 1 else {}
    model = segmentor(auxiliary=False, **one).double()
    model.data_preprocessor.forward = lambda data, training: data  # the images are ready
    if mode == "slide":
        model.test_cfg.update(mode="slide", crop_size=(24, 20), stride=(15, 13))
    with DefaultScope.overwrite_default_scope("mmseg"):
        tta = MODELS.build({"type": "SegTTAModel", "module": model})
    data = {"inputs": [], "data_samples": []}
    for seed, (sizes, flip) in enumerate(
        [((32, 40), None), ((48, 60), None), ((32, 40), "horizontal"), ((48, 60), "vertical")]
    ):
        images, samples = batch(sizes, seed=seed, ori_shape=(35, 44))
        samples[0].set_metainfo(
            {"flip": flip is not None, "flip_direction": flip, "img_path": "x.png"}
        )
        data["inputs"].append(images[:1])
        data["data_samples"].append(samples[:1])
    fast = copy.deepcopy(tta).eval()
    accelerate(fast)
    with torch.no_grad():
        expected = tta.eval().test_step(copy.deepcopy(data))[0]
        found = fast.test_step(copy.deepcopy(data))[0]
    labels, own = expected.pred_sem_seg.data, found.pred_sem_seg.data
    assert own.shape == labels.shape == (1, 35, 44)
    assert (own != labels).float().mean() < 2e-3  # ties within float32's rounding
    assert torch.equal(found.gt_sem_seg.data, expected.gt_sem_seg.data)
    assert found.metainfo["img_path"] == "x.png"


def test_windows_run_once_and_only_those_of_the_rows_at_hand_are_kept(monkeypatch):
    monkeypatch.setattr(resized_bands, "BAND", 5 * 32 * 8)
    model = segmentor().double().eval()
    model.test_cfg.update(mode="slide", crop_size=(16, 16), stride=(16, 16))
    accelerate(model)
    rows_kept, windows = [], []
    stock = mmseg_predictions.SlidingWindows.__call__

    def call(sliding, rows):
        found = stock(sliding, rows)
        rows_kept.append(len(sliding.kept))
        return found

    monkeypatch.setattr(mmseg_predictions.SlidingWindows, "__call__", call)
    model.backbone.register_forward_pre_hook(lambda _, inputs: windows.append(len(inputs[0])))
    images, samples = batch((96, 32))
    with torch.no_grad():
        model.predict(images[:1], samples[:1])
    assert sum(windows) == 6 * 2
    assert max(rows_kept) <= 2
