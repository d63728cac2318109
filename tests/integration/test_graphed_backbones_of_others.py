"""Encoders of other libraries, backbones and necks of OpenMMLab's models, by graphs on the CPU."""

import copy
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch
from helpers.graph_recorders import RunsAgain
from helpers.models_with_swin import IMAGE, make_case
from helpers.segmentors import batch, segmentor

import swin_backbone
from swin_backbone.cli import launching

#: What accelerate graphs in each, by the name of its class.
ENCODERS = {
    "SwinForImageClassification": "SwinModel",
    "Mask2Former": "SwinBackbone",
    "UperNet, V2": "Swinv2Backbone",
    "Donut": "DonutSwinModel",
    "timm": "SwinTransformer",
    "timm, features, V2": "FeatureListNet",
    "torchvision": "SwinTransformer",
    "mmdet": "SwinTransformer",
    "mmpretrain, V2": "SwinTransformerV2",
}


class Recorders:
    def __init__(self):
        self.made = []

    def __call__(self, device):
        self.made.append(RunsAgain())
        return self.made[-1]

    @property
    def replays(self):
        return sum(one.replays for one in self.made)


def graphed_by_accelerate(model):
    """Names of the modules that ``accelerate`` graphs."""
    report = swin_backbone.accelerate(model, graphs=True)
    rows = [row for row in report.rows if row.rewrite == "graphs"]
    report.revert()
    assert all(row.what for row in rows)
    return [name for row in rows for name in row.modules]


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    return [one for part in parts if part is not None for one in tensors(part)]


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder(name):
    model, _ = make_case(name)
    (found,) = graphed_by_accelerate(model)
    part = model.get_submodule(found)
    assert type(part).__name__ == ENCODERS[name]
    recorders, said, stock = Recorders(), [], copy.deepcopy(model)
    for one in (model, stock):
        swin_backbone.accelerate(one)
    graphs = swin_backbone.graph_backbone(part, 2, recorders, lambda line, level: said.append(line))
    for seed in range(6):
        images = torch.randn(1, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(seed))
        with torch.set_grad_enabled(seed < 3):
            maps, expected = (tensors(one.get_submodule(found)(images)) for one in (model, stock))
        assert len(maps) == len(expected) > 0
        assert all(map(torch.equal, maps, expected))
        if seed < 3:
            for one in (maps, expected):
                sum(m.square().sum() for m in one).backward()
    for (key, one), two in zip(model.named_parameters(), stock.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), key
        assert one.grad is None or torch.equal(one.grad, two.grad), key
    print(said)
    assert graphs.reason is None
    assert graphs.shapes == 2
    assert recorders.replays >= 1 + 2  # transformers puts hooks of its own in with the first call


def trained(model, images, samples, seed):
    model.zero_grad()
    torch.manual_seed(seed)
    losses = model.loss(images, samples)
    flat = [v for value in losses.values() for v in (value if isinstance(value, list) else [value])]
    sum(value.mean() for value in flat if value.requires_grad).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return [value.detach() for value in flat], grads


def assert_the_same_training(model, stock, draw):
    recorders = Recorders()
    graphs = swin_backbone.graph_backbone(model, 2, recorders)
    assert "extract_feat" in vars(model)
    for seed in range(3):
        images, samples = draw(seed)
        (losses, grads), (expected, right) = (
            trained(one, images, copy.deepcopy(samples), seed) for one in (model, stock)
        )
        assert all(map(torch.equal, losses, expected))
        assert grads.keys() == right.keys()
        assert all(torch.equal(grads[name], right[name]) for name in grads)
    assert (graphs.reason, graphs.shapes, recorders.replays) == (None, 1, 4)
    graphs.revert()
    assert "extract_feat" not in vars(model)


def test_backbone_and_neck_of_a_detector():
    from helpers.tiny_detectors import tiny_config, tiny_detector
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    model = tiny_detector(tiny_config("RetinaNet")).train()
    assert graphed_by_accelerate(model) == ["", "bbox_head"]

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        sample = DetDataSample(
            metainfo={"img_shape": (64, 96), "pad_shape": (64, 96), "batch_input_shape": (64, 96)},
            gt_instances=InstanceData(
                bboxes=torch.tensor([[4.0, 6.0, 40.0, 50.0]]), labels=torch.tensor([seed])
            ),
        )
        return torch.randn(1, 3, 64, 96, generator=generator), [sample]

    assert_the_same_training(model, copy.deepcopy(model), draw)


def test_backbone_of_a_segmentor():
    model = segmentor("UPer").double().train()
    assert graphed_by_accelerate(model) == [""]
    assert_the_same_training(model, copy.deepcopy(model), lambda seed: batch((64, 64), seed=seed))


def test_one_line_of_a_config(capsys):
    from mmengine.config import Config
    from mmengine.logging import MMLogger
    from mmengine.registry import HOOKS

    cfg = Config({"model": {"type": "EncoderDecoder"}, "default_hooks": {}})
    launching.apply_options(cfg, ["fast", "backbone_graphs"])
    hook = HOOKS.build(cfg.default_hooks.accelerate)
    model = segmentor("UPer").double()
    MMLogger.get_instance("backbone_graphs")
    hook.before_run(SimpleNamespace(model=model))
    assert "extract_feat" in vars(model)
    images, samples = batch((64, 64))
    for _ in range(3):
        model.loss(images, samples)
    printed = capsys.readouterr()
    line = "the backbone goes on without CUDA graphs: the model is on a cpu"
    assert (printed.out + printed.err).count(line) == 1


def test_graphs_of_a_segmentors_predictions_hold_the_operators_themselves():
    model = segmentor("UPer").double().eval()
    recorder, recorders = RunsAgain(), Recorders()
    swin_backbone.graph_backbone(model, 2, recorders)
    swin_backbone.graph_predictions(model, 2, recorder)
    images, samples = batch((64, 64))
    with torch.no_grad():
        for _ in range(2):
            model.extract_feat(images)
        for _ in range(2):
            model.predict(images, [sample.clone() for sample in samples])
    assert recorder.replays == 1
    # Once by hand, once as the scores were computed, and once as the recorder runs them again: none
    # where they were recorded.
    assert recorders.replays == 3
