"""A detector's backbone and neck by graphs, on the CPU: what is recorded runs again there."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers.graph_recorders import RunsAgain, StandInGraphHook
from helpers.paths import ROOT

from swin_backbone import accelerate, graph_features, graph_predictions

pytest.importorskip("mmdet")
pytest.importorskip("torchvision")

from benchmarking.detectors import draw_objects
from benchmarking.segmentors import Task
from helpers.tiny_detectors import tiny_config, tiny_detector

CONFIG = "swin_det/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-1x_coco.py"


@pytest.fixture(scope="module")
def stock():
    config = tiny_config("MaskRCNN")
    config.model.backbone.drop_path_rate = 0.0
    return tiny_detector(config)


def batch(size=(64, 96), seed=0, count=2):
    torch.manual_seed(seed)
    samples = draw_objects(Task("mask-rcnn", count, "train", size), "cpu")
    for sample in samples:
        sample.gt_instances.labels %= 5
    return torch.randn(count, 3, *size), samples


def train(model, steps, accumulated=1):
    """Losses and weights of some steps."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    found = []
    for step, (size, seed) in enumerate(steps):
        torch.manual_seed(seed)
        images, samples = batch(size, seed)
        losses = model.loss(images, samples)
        values = [v for k, v in losses.items() if "loss" in k]
        loss = sum(sum(v) if isinstance(v, list) else v for v in values)
        loss.backward()
        found.append(loss.detach())
        if (step + 1) % accumulated == 0:
            optimizer.step()
            optimizer.zero_grad()
    return found, [p.detach() for p in model.parameters()]


STEPS = [((64, 96), 0), ((64, 96), 1), ((96, 64), 2), ((64, 96), 3), ((32, 32), 4), ((96, 64), 5)]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_training_is_the_same(stock, fast, accumulated):
    """Two shapes have a graph and the third runs without: the same losses, the same weights."""
    model, plain = copy.deepcopy(stock), copy.deepcopy(stock)
    if fast:
        accelerate(model)
        accelerate(plain)
    said, recorder = [], RunsAgain()
    graphs = graph_features(model, 2, recorder, said.append)
    expected, found = (train(one, STEPS, accumulated) for one in (plain, model))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert graphs.shapes == 2
    assert recorder.replays == 10  # forward and backward of five steps
    assert any("further ones run without" in text for text in said)
    copied = copy.deepcopy(model)
    assert torch.equal(copied.extract_feat(batch()[0])[0], model.extract_feat(batch()[0])[0])
    graphs.revert()
    assert "extract_feat" not in vars(model)


@torch.no_grad()
def test_predictions_are_the_same(stock):
    model = copy.deepcopy(stock)
    recorder = RunsAgain()
    graphs = graph_predictions(model, 4, recorder)
    for seed in range(3):
        images, samples = batch(seed=seed)
        found, expected = (
            one.predict(images, copy.deepcopy(samples), rescale=False) for one in (model, stock)
        )
        for own, right in zip(found, expected, strict=True):
            assert torch.equal(own.pred_instances.bboxes, right.pred_instances.bboxes)
    assert (recorder.recorded, recorder.replays) == (1, 2)
    graphs.revert()
    assert "extract_feat" not in vars(model)


def test_the_hook_replays_a_detectors_features(stock):
    model = copy.deepcopy(stock)
    hook, runner = StandInGraphHook(), SimpleNamespace(model=model)
    hook.before_run(runner)
    hook.before_train(runner)
    expected, found = (train(one, STEPS[:2]) for one in (copy.deepcopy(stock), model))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            model.predict(*batch(), rescale=False)
    assert [recorder.replays for recorder in hook.recorders] == [1, 4]
    hook.after_train(runner)
    hook.after_run(runner)
    assert "extract_feat" not in vars(model)


def test_few_shapes():
    """With the option batches are padded to multiples of 128 pixels."""
    from mmdet.models.data_preprocessors import DetDataPreprocessor
    from mmengine.config import Config

    config = Config.fromfile(ROOT / "configs" / CONFIG)
    config.merge_from_dict(
        Config.fromfile(ROOT / "configs" / "_base_" / "options" / "few_shapes_det.py").to_dict()
    )
    options = config.model.data_preprocessor
    options.pop("type")
    found = set()
    for rows, columns in ((800, 1333), (769, 1290), (640, 1100), (700, 1025)):
        images = [torch.zeros(3, rows, columns, dtype=torch.uint8)]
        batch = DetDataPreprocessor(**options)({"inputs": images, "data_samples": None})
        found.add(tuple(batch["inputs"].shape[2:]))
    assert found == {(896, 1408), (640, 1152), (768, 1152)}
    assert config.default_hooks.cuda_graphs.most_shapes == 16


def test_on_a_cpu_it_says_why(stock):
    model, said = copy.deepcopy(stock), []
    graphs = graph_features(model, say=said.append)
    assert "on a cpu" in graphs.reason
    assert len(said) == 1
    images = batch()[0]
    assert torch.equal(model.extract_feat(images)[0], stock.extract_feat(images)[0])


@pytest.mark.parametrize("value", [0, True, 1.5, None])
def test_arguments_are_checked(stock, value):
    with pytest.raises(ValueError, match="most_shapes must be an integer of at least 1"):
        graph_features(stock, value)
    with pytest.raises(TypeError, match="with a backbone and extract_feat"):
        graph_features(torch.nn.Linear(1, 1))
