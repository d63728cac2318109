"""A detector's backbone and neck as CUDA graphs: the same losses and weights as without."""

import copy

import pytest
import torch

from swin_backbone import accelerate, graph_backbone
from swin_backbone.acceleration.graphed_encoders import dense_head
from swin_backbone.graphs import graphed_backbones

pytest.importorskip("mmdet")

from benchmarking.detectors import CONFIGS, draw_classes, draw_objects, draw_samples
from benchmarking.segmentors import Task
from helpers.detector_steps import build, step
from helpers.paths import ROOT
from helpers.small_detector import small_detector
from helpers.tiny_detectors import tiny_config, tiny_detector


@pytest.fixture(scope="module")
def stock():
    config = tiny_config("MaskRCNN")
    config.model.backbone.drop_path_rate = 0.0
    return tiny_detector(config).cuda()


def batch(size, seed):
    torch.manual_seed(seed)
    samples = draw_objects(Task("mask-rcnn", 2, "train", size), "cuda")
    for sample in samples:
        sample.gt_instances.labels %= 5
    return torch.randn(2, 3, *size, device="cuda"), samples


def losses_of(model, steps):
    """Of steps that change nothing but gradients; and the last gradients of the backbone."""
    model.train()
    found = []
    for size, seed in steps:
        images, samples = batch(size, seed)
        model.zero_grad()
        torch.manual_seed(seed)
        with torch.autocast("cuda", torch.bfloat16):
            losses = model.loss(images, samples)
        values = [v for k, v in losses.items() if "loss" in k]
        loss = sum(sum(v) if isinstance(v, list) else v for v in values)
        loss.backward()
        found.append(loss.detach())
    return found, [p.grad.clone() for p in model.backbone.parameters() if p.grad is not None]


@pytest.mark.parametrize("head", [None, "rpn_head"])
@pytest.mark.parametrize("fast", [False, True])
def test_training(stock, fast, head):
    """Three shapes, two of which come again and have a graph."""
    model, plain = copy.deepcopy(stock), copy.deepcopy(stock)
    if fast:
        accelerate(model)
        accelerate(plain)
    said = []
    graphs = graph_backbone(model, 2, say=lambda *words: said.append(words), head=head)
    steps = [
        ((64, 96), 0),
        ((64, 96), 1),
        ((96, 64), 2),
        ((64, 96), 3),
        ((96, 64), 4),
        ((32, 64), 5),
    ]
    expected, found = (losses_of(one, steps) for one in (plain, model))
    assert graphs.reason is None, said
    assert graphs.shapes == 2
    # Sums of atomics in 16 bits differ from run to run.
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)
    graphs.revert()


@torch.no_grad()
def test_predictions(stock):
    model = copy.deepcopy(stock).eval()
    graphs = graph_backbone(model)
    images, _ = batch((64, 96), 0)
    expected = stock.eval().extract_feat(images)
    for _ in range(3):
        found = model.extract_feat(images)
    assert graphs.reason is None
    assert graphs.shapes == 1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    graphs.revert()


def mask_transformer():
    pytest.importorskip("mmseg")
    from mmengine.registry import MODELS, DefaultScope
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    config = small_detector(ROOT / "configs" / CONFIGS["mask2former"]).model
    config.backbone.drop_path_rate = 0.0
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(config)
    model.init_weights()
    return model.cuda()


def test_a_mask_transformer():
    """Its head with the backbone, in training and predictions: nothing in it waits."""
    plain = mask_transformer()
    accelerate(plain)
    model = copy.deepcopy(plain)
    said = []
    head, stand_ins = dense_head(model)
    graphs = graph_backbone(
        model, 2, say=lambda *words: said.append(words), head=head, stand_ins=stand_ins
    )
    task = Task("mask2former", 2, "train", (64, 96))
    for seed in range(3):
        torch.manual_seed(seed)
        images, samples = torch.randn(2, 3, 64, 96, device="cuda"), draw_classes(task, "cuda")
        found = []
        for one in (plain, model):
            one.train().zero_grad()
            torch.manual_seed(seed)
            losses = one.loss(images, copy.deepcopy(samples))
            loss = sum(value.sum() for name, value in losses.items() if "loss" in name)
            loss.backward()
            grads = [p.grad for p in one.parameters() if p.grad is not None]
            found.append((loss.detach(), torch.cat([grad.flatten() for grad in grads])))
        # Sums of atomics, in float32 with TensorFloat-32 products, differ from run to run.
        torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-3)
        assert (found[1][1] - found[0][1]).norm() <= 0.02 * found[0][1].norm()
    for one in (plain, model):
        one.eval()
    for _ in range(3):
        with torch.no_grad():
            expected, predicted = (
                one.predict(images, copy.deepcopy(samples)) for one in (plain, model)
            )
        for right, own in zip(expected, predicted, strict=True):
            same = right.pred_sem_seg.data == own.pred_sem_seg.data
            assert same.float().mean() > 0.99
    assert (graphs.reason, graphs.shapes) == (None, 2), said
    assert not any("left out" in words[0] for words in said), said
    graphs.revert()


def test_encoder_and_decoder_of_dino(monkeypatch):
    """In training, with other numbers of objects in each step, and in predictions."""
    plain = build("dino").cuda()
    accelerate(plain)
    model = copy.deepcopy(plain)
    report = accelerate(model, graphs=True)
    task = Task("dino", 2, "train", (64, 96))
    for seed, objects in enumerate([12, 3, 7, 0, 12, 1]):
        torch.manual_seed(seed)
        images, samples = torch.randn(2, 3, 64, 96, device="cuda"), draw_samples(task, "cuda")
        for sample in samples:
            sample.gt_instances = sample.gt_instances[:objects]
        found = []
        for one in (plain, model):
            losses = step(one.train(), images, copy.deepcopy(samples), seed)
            grads = [p.grad for p in one.parameters() if p.grad is not None]
            found.append((losses, torch.cat([grad.flatten() for grad in grads])))
        # Products in TensorFloat-32, and points at kinks, of which a rounding chooses the side.
        torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-2, atol=1e-2)
        assert (found[1][1] - found[0][1]).norm() <= 0.05 * found[0][1].norm()
    for one in (plain, model):
        one.eval()
    for _ in range(3):
        with torch.no_grad():
            expected, predicted = (
                one.predict(images, copy.deepcopy(samples), rescale=False) for one in (plain, model)
            )
        for right, own in zip(expected, predicted, strict=True):
            right, own = right.pred_instances.scores, own.pred_instances.scores
            torch.testing.assert_close(own, right, rtol=1e-2, atol=1e-3)
    graphs = {type(one.model).__name__: one for one in graphed_backbones(model)}
    assert len(graphs) == 3
    assert {name: (one.reason, one.shapes) for name, one in graphs.items()} == dict.fromkeys(
        graphs, (None, 2)
    )
    report.revert()
