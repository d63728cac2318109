"""Graphs that nobody needs are gone at once, not when Python's garbage collector comes: they hold
gigabytes, and NCCL's groups, which wait for them at the end of a process."""

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch
from helpers.segmentors import batch, segmentor
from torch import nn

from swin_backbone import graph_backbone, graph_predictions
from swin_backbone.graphs import GraphedLosses


class Replay:
    """Of a graph that holds nothing, as CUDA's does not hold what was recorded."""

    def __call__(self):
        pass


class RunsOnce:
    """Records by running; knows which of its graphs still live."""

    def __init__(self):
        self.graphs = []

    @contextmanager
    def rehearsal(self, strict):
        yield

    def record(self, function):
        function()
        replay = Replay()
        self.graphs.append(weakref.ref(replay))
        return replay

    def bytes_held(self):
        return 0

    def living(self):
        return sum(graph() is not None for graph in self.graphs)


@pytest.fixture(autouse=True)
def without_garbage_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_of_losses():
    model, recorder = nn.Linear(3, 2), RunsOnce()
    graphs = GraphedLosses(model, recorder, 4, 200, None, None, print)

    def bind(tensors):
        return lambda: {"loss": model(tensors[0]).square().mean(), "losses": [tensors[0].sum()]}

    for rows in (4, 5):
        graphs.losses([torch.randn(rows, 3)], bind)["loss"].backward()
    assert graphs.reason is None
    assert recorder.living() == 4
    graphs.release()
    assert recorder.living() == 0


@pytest.mark.parametrize("waits", [False, True])
def test_of_a_backbone(waits):
    """What a backward pass that has not come will need stays until then."""
    model, recorder = nn.Conv2d(3, 4, 1), RunsOnce()
    graphs = graph_backbone(model, 4, lambda device: recorder)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    maps = model(torch.randn(2, 3, 8, 8))
    assert recorder.living() == 2
    if waits:
        graphs.revert()
        assert recorder.living() == 2
    maps.sum().backward()
    del maps
    graphs.revert()
    assert recorder.living() == 0


def test_of_predictions():
    model, recorder = segmentor("UPer").eval(), RunsOnce()
    graphs = graph_predictions(model, 4, recorder)
    images, samples = batch((64, 72), dtype=torch.float32)
    with torch.no_grad():
        for _ in range(3):
            model.predict(images, [sample.clone() for sample in samples])
    assert recorder.living() == 1
    graphs.revert()
    assert recorder.living() == 0
