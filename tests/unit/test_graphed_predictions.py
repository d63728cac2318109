"""Predictions by graphs, on the CPU: what is recorded runs again there, on the same tensor."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers.graph_recorders import RunsAgain, StandInGraphHook, in_between
from helpers.segmentors import batch, segmentor

from swin_backbone import accelerate, graph_predictions


def predict(model, images, samples):
    with torch.no_grad():
        found = model.predict(images, [sample.clone() for sample in samples])
    return [sample.pred_sem_seg.data for sample in found]


@pytest.fixture
def model():
    return segmentor("UPer").double().eval()


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("fast", [True, False])
def test_predictions_are_the_same(model, fast, mode):
    model.test_cfg.update(mode=mode, crop_size=(40, 40), stride=(24, 24))
    if fast:
        accelerate(model)
    stock, recorder = copy.deepcopy(model), RunsAgain()
    graphs = graph_predictions(model, 4, recorder)
    for seed, sizes, ori in [(0, (64, 72), (50, 60)), (1, (64, 72), (33, 70)), (2, (64, 72), None)]:
        images, samples = batch(sizes, seed=seed, ori_shape=ori)
        for one, other in zip(
            predict(model, images, samples), predict(stock, images, samples), strict=True
        ):
            assert torch.equal(one, other)
    assert recorder.replays
    graphs.revert()
    assert "encode_decode" not in vars(model)


def test_weights_and_statistics_may_change(model):
    recorder = RunsAgain()
    graph_predictions(model, 4, recorder)
    stock = copy.deepcopy(model)
    assert vars(stock)["encode_decode"].__self__ is stock
    images, samples = batch((64, 64))
    for step in range(4):
        if step == 3:
            for one in (model, stock):
                for tensor in one.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.mul_(1.5)
        for one, other in zip(
            predict(model, images, samples), predict(stock, images, samples), strict=True
        ):
            assert torch.equal(one, other)
    assert (recorder.recorded, recorder.replays) == (1, 3)


def test_hooks_that_come_later_are_called(model):
    seen, recorder = [], RunsAgain()
    graph_predictions(model, 4, recorder)
    images, samples = batch((64, 64))
    for _ in range(3):
        predict(model, images, samples)
    handle = model.backbone.register_forward_hook(lambda *_: seen.append(1))
    predict(model, images, samples)
    predict(model, images, samples)
    handle.remove()
    assert (len(seen), recorder.replays) == (2, 2)
    predict(model, images, samples)
    assert (len(seen), recorder.replays) == (2, 3)


def test_threads_do_not_meet_in_a_graph(model):
    stock, recorder, found = copy.deepcopy(model), RunsAgain(), []
    graph_predictions(model, 4, recorder)
    one, two = (batch((64, 64), seed=seed) for seed in range(2))
    for _ in range(2):
        predict(model, *one)
    head = model.decode_head
    head.forward = in_between(head, lambda: found.append(predict(model, *two)))
    assert torch.equal(predict(model, *one)[0], predict(stock, *one)[0])
    assert torch.equal(found[0][0], predict(stock, *two)[0])
    assert recorder.replays == 2


def test_images_seen_several_times_go_by_graphs(model):
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    with DefaultScope.overwrite_default_scope("mmseg"):
        tta = MODELS.build({"type": "SegTTAModel", "module": model})
    hook = StandInGraphHook()
    hook.before_run(SimpleNamespace(model=tta))
    assert hook.predicting.model is model
    hook.after_run(None)
    assert "encode_decode" not in vars(model)


def test_shapes_get_a_graph_when_they_come_again_and_only_so_many(model):
    said, recorder = [], RunsAgain()
    graphs = graph_predictions(model, 2, recorder, said.append)
    for side in (32, 48, 64, 32, 48, 64, 64, 32):
        predict(model, *batch((side, side)))
    assert graphs.shapes == recorder.recorded == 2
    assert recorder.replays == 3
    assert len(said) == 1
    assert said[0].startswith("2 shapes of images")


def test_on_a_cpu_it_says_why_and_changes_nothing(model):
    said = []
    expected = predict(model, *batch((64, 64)))
    graphs = graph_predictions(model, say=said.append)
    assert "on a cpu" in graphs.reason
    assert said == [f"predictions go on without CUDA graphs: {graphs.reason}"]
    for _ in range(3):
        assert torch.equal(predict(model, *batch((64, 64)))[0], expected[0])


def test_what_cannot_be_recorded_says_why_once(model):
    said, recorder = [], RunsAgain()
    head, forward = model.decode_head, model.decode_head.forward

    def draws_on_the_host(maps):
        if recorder.rehearsing:
            raise RuntimeError("waits for the device")
        return forward(maps)

    head.forward = draws_on_the_host
    graphs = graph_predictions(model, 2, recorder, said.append)
    for _ in range(4):
        predict(model, *batch((64, 64)))
    assert len(said) == 1
    assert "waits for the device (test_graphed_predictions.py" in said[0]
    assert graphs.shapes == 0


@pytest.mark.parametrize("value", [0, True, 1.5, None])
def test_arguments_are_checked(model, value):
    with pytest.raises(ValueError, match="most_shapes must be an integer of at least 1"):
        graph_predictions(model, value)
    with pytest.raises(TypeError, match="must be a segmentor of mmseg"):
        graph_predictions(torch.nn.Linear(1, 1))
