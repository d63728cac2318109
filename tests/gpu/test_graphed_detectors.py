"""A detector's backbone and neck as CUDA graphs: the same losses and weights as without."""

import copy

import pytest
import torch

from swin_backbone import accelerate, graph_backbone

pytest.importorskip("mmdet")

from benchmarking.detectors import draw_objects
from benchmarking.segmentors import Task
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
