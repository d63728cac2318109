"""Losses by graphs, on the CPU: what is recorded runs again there, on the same tensors."""

import copy
import random

import pytest
import torch
from helpers.graph_recorders import RunsAgain
from torch import nn

from swin_backbone.graphs import GraphedLosses


class Model(nn.Module):
    """Convolution, norm and dropout; a parameter that no loss needs."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Conv2d(4, 2, 1)
        self.idle = nn.Parameter(torch.ones(3))

    def losses(self, images, labels):
        scores = self.last(self.dropout(self.norm(self.convolution(images)).relu()))
        entropy = nn.functional.cross_entropy(scores, labels)
        right = (scores.argmax(1) == labels).float().mean()
        return {"loss": entropy, "losses": [entropy * 0.5, scores.square().mean()], "acc": right}


def bound(losses):
    return lambda tensors: lambda: losses(*tensors)


def graphs_of(model, most=4, said=None, bucket_bytes=200):
    said = [] if said is None else said
    return GraphedLosses(model, RunsAgain(), most, bucket_bytes, None, None, said.append)


def batch(images=2, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (images, size, size), generator=generator)
    return [torch.randn(images, 3, size, size, generator=generator), labels]


def total(losses):
    return losses["loss"] + sum(losses["losses"])


@pytest.fixture
def models():
    torch.manual_seed(0)
    model = Model().double().train()
    return model, copy.deepcopy(model)


def as_doubles(tensors):
    return [tensors[0].double(), tensors[1]]


def step(model, losses, scale=1.0):
    loss = total(losses)
    (loss * scale).backward()
    return loss.detach()


def same(model, other):
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
        assert (one.grad is None) == (two.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, msg=name)
    for (name, one), two in zip(model.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_training_is_the_same_with_and_without(models, set_to_none, accumulate, clip):
    graphs = graphs_of(models[0])
    optimizers = [torch.optim.AdamW(m.parameters(), 0.05) for m in models]
    schedules = [torch.optim.lr_scheduler.StepLR(o, 2, 0.5) for o in optimizers]
    for index in range(9):
        tensors = as_doubles(batch(images=2 + index % 2, seed=index))
        found = []
        for way, model in enumerate(models):
            torch.manual_seed(index)  # of dropout
            losses = model.losses(*tensors) if way else graphs.losses(tensors, bound(model.losses))
            found.append((losses, step(model, losses, 1 / accumulate)))
        (by_graph, one), (stock, two) = found
        torch.testing.assert_close(one, two)
        assert list(by_graph) == list(stock)
        torch.testing.assert_close(by_graph["acc"], stock["acc"])
        assert not by_graph["acc"].requires_grad
        same(*models)
        if (index + 1) % accumulate:
            continue
        for model, optimizer, schedule in zip(models, optimizers, schedules, strict=True):
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)
            schedule.step()
    assert graphs.shapes == 2
    assert graphs.recorder.recorded == 4  # passes
    assert graphs.recorder.replays == 18


def test_losses_may_be_scaled_and_steps_left_out(models):
    models = [model.float() for model in models]
    graphs = graphs_of(models[0])
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    scalers = [torch.amp.GradScaler("cpu", init_scale=256.0) for _ in models]
    for index in range(5):
        tensors = batch(seed=index)
        for way, (model, optimizer, scaler) in enumerate(
            zip(models, optimizers, scalers, strict=True)
        ):
            torch.manual_seed(index)
            losses = model.losses(*tensors) if way else graphs.losses(tensors, bound(model.losses))
            overflow = torch.inf if index == 2 else 1.0
            scaler.scale(total(losses) * overflow).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        assert scalers[0].get_scale() == scalers[1].get_scale() == (256.0 if index < 2 else 128.0)
        if index != 2:
            same(*models)
        for optimizer in optimizers:
            optimizer.zero_grad()
    same(*models)


def test_rehearsals_change_nothing(models):
    model, before = models
    graphs = graphs_of(model)
    states = torch.get_rng_state(), random.getstate()
    losses = graphs.losses(as_doubles(batch()), bound(lambda *_: {"loss": model.last.bias.sum()}))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    same(model, before)
    assert losses["loss"].requires_grad


def test_nothing_is_recorded_while_kernels_are_only_compiled(models, monkeypatch):
    launch = pytest.importorskip("swin_backbone.ops.triton.launch")
    graphs = graphs_of(models[0])
    with monkeypatch.context() as patch:
        patch.setattr(launch, "collected", object())
        assert graphs.losses(as_doubles(batch()), bound(models[0].losses)) is None
    assert graphs.recorder.recorded == 0
    assert graphs.losses(as_doubles(batch()), bound(models[0].losses)) is not None


def test_further_shapes_run_without_and_that_is_said_once(models):
    said = []
    graphs = graphs_of(models[0], most=2, said=said)
    found = [
        graphs.losses(as_doubles(batch(size=size)), bound(models[0].losses)) is not None
        for size in (6, 7, 8, 9, 6, 8)
    ]
    assert found == [True, True, False, False, True, False]
    assert graphs.shapes == 2
    assert len([line for line in said if line.startswith("2 shapes")]) == 1


def _on_the_host(model):
    def losses(images, labels):
        return {"loss": model.last.weight.sum() * random.random()}

    return losses


def _no_tensor(model):
    return lambda images, labels: {"loss": model.last.weight.sum(), "count": 3}


def _no_parameter(model):
    return lambda images, labels: {"loss": images.sum()}


def _broken(model):
    def losses(images, labels):
        raise KeyError("img_shape")

    return losses


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (_on_the_host, "Python's random, on the host"),
        (_no_tensor, "'count' is a int, not a tensor"),
        (_no_parameter, "no loss depends on a parameter"),
        (_broken, "KeyError: 'img_shape' (test_graphed_losses.py"),
    ],
)
def test_what_cannot_be_recorded_says_why_once_and_leaves_the_state(models, losses, words):
    said, (model, before) = [], models
    graphs = graphs_of(model, said=said)
    state = torch.get_rng_state()
    for seed in range(3):
        assert graphs.losses(as_doubles(batch(seed=seed)), bound(losses(model))) is None
    assert len(said) == 1
    assert words in said[0]
    assert graphs.reason
    assert torch.equal(state, torch.get_rng_state())
    same(model, before)


def test_a_shape_that_cannot_be_recorded_leaves_the_others(models):
    said, model = [], models[0]
    graphs = graphs_of(model, said=said)

    def losses(images, labels):
        if images.shape[-1] > 6:
            raise MemoryError("no more")
        return model.losses(images, labels)

    found = [
        graphs.losses(as_doubles(batch(size=size)), bound(losses)) is not None
        for size in (6, 8, 6, 9, 8)
    ]
    assert found == [True, False, True, False, False]
    assert [line for line in said if "MemoryError: no more" in line] == said[1:2]


def test_losses_of_an_older_pass_are_refused(models):
    graphs = graphs_of(models[0])
    first = graphs.losses(as_doubles(batch()), bound(models[0].losses))
    second = graphs.losses(as_doubles(batch(seed=1)), bound(models[0].losses))
    with pytest.raises(RuntimeError, match="before the next forward pass"):
        total(first).backward()
    loss = total(second)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="and once"):
        loss.backward()


@pytest.mark.parametrize("change", ["frozen", "moved", "evaluated"])
def test_a_changed_model_is_recorded_again(models, change):
    model, other = models
    graphs = graphs_of(model)
    for index in range(4):
        if index == 2:
            for one in models:
                if change == "frozen":
                    one.convolution.weight.requires_grad_(False)
                elif change == "moved":
                    one.last.weight.data = one.last.weight.detach().clone() + 1
                else:
                    one.norm.eval()
        tensors = as_doubles(batch(seed=index))
        for way, one in enumerate(models):
            one.zero_grad()
            torch.manual_seed(index)
            step(one, one.losses(*tensors) if way else graphs.losses(tensors, bound(one.losses)))
        same(model, other)
    assert graphs.shapes == 1
    assert graphs.recorder.recorded == 4


def test_hooks_that_come_later_are_called_and_end_graphs(models):
    said, seen, model = [], [], models[0]
    graphs = graphs_of(model, said=said)
    assert graphs.losses(as_doubles(batch()), bound(model.losses)) is not None
    handle = model.last.register_forward_hook(lambda *_: seen.append(1))
    assert graphs.losses(as_doubles(batch()), bound(model.losses)) is None
    assert "last has a forward hook, which a replay would not call" in said[-1]
    handle.remove()
    assert graphs.losses(as_doubles(batch()), bound(model.losses)) is None


def test_hooks_of_the_models_own_parameters_see_no_gradient_of_a_rehearsal(models):
    seen, model = [], models[0]
    model.last.weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter))
    graphs = graphs_of(model)
    step(model, graphs.losses(as_doubles(batch()), bound(model.losses)))
    assert not seen
    assert model.last.weight.grad is not None
