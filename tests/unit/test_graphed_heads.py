"""Heads in the graph of the maps they are called with, on the CPU, where a replay runs again."""

import copy
import pickle

import pytest
import torch
from helpers.graph_recorders import RunsAgain
from torch import nn

from swin_backbone import graph_backbone


class Detector(nn.Module):
    """A backbone of two maps, and a head that is called with both."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleList([nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 2, 2)])
        self.head = Head()

    def extract_feat(self, x):
        first = self.backbone[0](x)
        return first, self.backbone[1](first)


class Head(nn.Module):
    """A convolution of each map; counts its calls."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, maps):
        Head.calls += 1
        return [self.conv(one) for one in maps], [one.mean() for one in maps]


@pytest.fixture
def pair():
    """A detector by graphs that are recorded, and the same without."""
    torch.manual_seed(0)
    stock = Detector()
    model = copy.deepcopy(stock)
    graphs = graph_backbone(model, record_on=lambda device: RunsAgain(), head="head")
    for _ in range(2):
        step(model)
    assert (graphs.reason, graphs.shapes) == (None, 1)
    model.zero_grad()
    return model, stock


def step(model, extract=torch.enable_grad, call=lambda model, maps: model.head(maps)):
    with extract():
        maps = model.extract_feat(torch.ones(1, 3, 8, 8))
    scores, means = call(model, maps)
    loss = sum(one.float().square().sum() for one in (*scores, *means, *maps))
    if loss.requires_grad:
        loss.backward()
    return scores


def in_bfloat16(model, maps):
    with torch.autocast("cpu", torch.bfloat16):
        return model.head(maps)


def without_gradients(model, maps):
    with torch.no_grad():
        return model.head(maps)


def written(model, maps):
    with torch.no_grad():
        maps[1].mul_(2)
    return model.head(maps)


def others(model, maps):
    return model.head([one + 1 for one in maps])


def fewer(model, maps):
    return model.head(maps[:1])


def by_name(model, maps):
    return model.head(maps=maps)


def twice(model, maps):
    model.head(maps)
    return model.head(maps)


def once(model, maps):
    return model.head(maps)


def in_a_list(model, maps):
    return model.head(list(maps))


KEPT = (once, in_a_list)
OTHERWISE = (in_bfloat16, without_gradients, written, others, fewer, by_name, twice)


@pytest.mark.parametrize("call", KEPT + OTHERWISE)
@pytest.mark.parametrize("extract", [torch.enable_grad, torch.no_grad])
def test_results_and_gradients_are_those_without(pair, call, extract):
    """And none are taken that were computed of other maps, or otherwise."""
    model, stock = pair
    for _ in range(3):
        for one in pair:
            one.zero_grad()
        found, expected = (step(one, extract, call) for one in pair)
        for one, other in zip(found, expected, strict=True):
            assert (one.dtype, one.requires_grad) == (other.dtype, other.requires_grad)
            assert torch.equal(one, other)
        for one, other in zip(model.parameters(), stock.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                torch.testing.assert_close(one.grad, other.grad)  # added in another order


@pytest.mark.parametrize("call", KEPT + OTHERWISE)
def test_kept_results_are_not_computed_again(pair, call):
    maps = pair[0].extract_feat(torch.ones(1, 3, 8, 8))  # a replay runs the head here
    before = Head.calls
    call(pair[0], maps)
    assert Head.calls - before == (call not in KEPT)


class AsksTheDevice(Head):
    """Cannot be captured."""

    def forward(self, maps):
        if self.recorder.rehearsing:
            raise RuntimeError("waits for the device")
        return super().forward(maps)


def test_a_head_that_cannot_be_captured_is_left_out():
    """Its maps are replayed nevertheless."""
    recorder, said, stock = RunsAgain(), [], Detector()
    AsksTheDevice.recorder = recorder
    model = copy.deepcopy(stock)
    model.head.__class__ = AsksTheDevice
    graphs = graph_backbone(
        model, 4, lambda device: recorder, lambda words, level: said.append(words), head="head"
    )
    for _ in range(3):
        for one in (model, stock):
            one.zero_grad()
        found, expected = step(model), step(stock)
        assert all(map(torch.equal, found, expected))
        for one, other in zip(model.parameters(), stock.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
    assert (graphs.reason, graphs.shapes) == (None, 1)
    assert recorder.replays
    assert any("the head is left out" in words and "waits for" in words for words in said)
    graphs.revert()
    assert "forward" not in vars(model.head)


@pytest.mark.parametrize("others", [(), (None,)])
def test_further_arguments_that_a_head_does_not_read(others):
    class Reads(Head):
        def forward(self, maps, samples=()):
            assert len(samples or ()) == 0
            return super().forward(maps)

    stock = Detector()
    model = copy.deepcopy(stock)
    model.head.__class__ = Reads
    graph_backbone(model, 4, lambda device: RunsAgain(), head="head", stand_ins=lambda maps: ([],))
    before = Head.calls
    for _ in range(3):
        found = step(model, call=lambda model, maps: model.head(maps, *others))
    assert all(map(torch.equal, found, step(stock)))
    model.extract_feat(torch.ones(1, 3, 8, 8))
    assert Head.calls > before


def test_what_is_kept_is_let_go(pair):
    """Else results of which no loss is made would stand in the way of the next call's graph."""
    said = []
    model = pair[1]
    graph_backbone(
        model,
        record_on=lambda device: RunsAgain(),
        say=lambda line, level: said.append(line),
        head="head",
    )
    for _ in range(4):
        model.extract_feat(torch.ones(1, 3, 8, 8))
    assert len(said) == 1
    assert "CUDA graphs replay" in said[0]


def test_hooks_of_the_head_are_called(pair):
    called = []
    model = copy.deepcopy(pair[1])
    model.head.register_forward_hook(lambda *args: called.append(1))
    graphs = graph_backbone(model, record_on=lambda device: RunsAgain(), head="head")
    for _ in range(3):
        step(model)
    assert (graphs.reason, len(called)) == (None, 3)


def test_copies_pickles_and_the_way_back(pair):
    model, stock = pair
    maps = [torch.rand(1, 4, 4, 4)]
    for one in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(one.head(maps)[0][0], stock.head(maps)[0][0])
    graphs = graph_backbone(stock, record_on=lambda device: RunsAgain(), head="head")
    graphs.revert()
    assert not {"extract_feat", "forward"} & (vars(stock).keys() | vars(stock.head).keys())


@pytest.mark.parametrize(("name", "part"), [("no_head", ""), ("0", "backbone")])
def test_heads_must_be_there(pair, name, part):
    with pytest.raises(ValueError, match=f"head must be the name of a child .* got '{name}'"):
        graph_backbone(pair[1].get_submodule(part), head=name)
