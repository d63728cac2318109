"""Backbones by graphs, on the CPU: what is recorded runs again there, on the same tensors."""

import copy
import pickle
import random
from collections import OrderedDict
from typing import ClassVar

import pytest
import torch
from benchmarking import runners
from helpers.graph_recorders import RunsAgain, in_between
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from swin_backbone import SwinBackbone, accelerate, explain, graph_backbone
from swin_backbone.graphs import graphed_backbones


class Pyramid(nn.Module):
    """Two maps, each by a norm of its own; dropout; a part that may be checkpointed."""

    def __init__(self, with_cp=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.down = nn.Conv2d(4, 6, 2, 2)
        self.last = nn.Conv2d(6, 2, 1)
        self.with_cp = with_cp

    def deep(self, x):
        return self.last(self.down(x).relu())

    def forward(self, x, scale=1.0):
        x = self.drop(self.norm(self.stem(x * scale))).relu()
        reentrant = {"use_reentrant": self.with_cp == "reentrant", "preserve_rng_state": False}
        deep = checkpoint(self.deep, x, **reentrant) if self.with_cp else self.deep(x)
        return [x, deep]


class Recorders:
    """Gives recorders, and counts what they did."""

    def __init__(self):
        self.made = []

    def __call__(self, device):
        self.made.append(RunsAgain())
        return self.made[-1]

    def total(self, name):
        return sum(getattr(one, name) for one in self.made)


@pytest.fixture
def recorders():
    return Recorders()


def pyramid(**options):
    torch.manual_seed(0)
    return Pyramid(**options).double().train()


def swin(**options):
    torch.manual_seed(0)
    options = {"drop_path_rate": 0.3, **options}
    model = SwinBackbone(
        embed_dims=8, depths=(1, 2), num_heads=(1, 2), window_size=4, out_indices=(0, 1), **options
    )
    return model.double().train()


def images(number=2, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (number, 3, size, size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def loss_of(maps, weights=(1.0, 2.0)):
    return sum(w * one.square().sum() for w, one in zip(weights, maps, strict=True) if w)


def same(model, other):
    for (name, one), two in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(one, two[1]), name
        assert (one.grad is None) == (two[1].grad is None), name
        assert one.grad is None or torch.equal(one.grad, two[1].grad), name
    for (name, one), two in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two), name


def step(model, x, seed=0, weights=(1.0, 2.0)):
    torch.manual_seed(seed)
    maps = model(x)
    loss = loss_of(maps, weights)
    loss.backward()
    return loss.detach(), maps


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, 0.1)])
@pytest.mark.parametrize("make", [pyramid, swin])
def test_a_training_is_the_same_with_and_without(recorders, make, accumulate, clip, set_to_none):
    model = make()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model, 2, recorders)
    optimizers = [torch.optim.AdamW(one.parameters(), 0.05) for one in (model, stock)]
    for index in range(9):
        x = images(size=16 + 8 * (index % 2), seed=index)
        one, two = (step(m, x, index) for m in (model, stock))
        assert torch.equal(one[0], two[0])
        same(model, stock)
        if (index + 1) % accumulate == 0:
            for m, optimizer in zip((model, stock), optimizers, strict=True):
                if clip is not None:
                    nn.utils.clip_grad_norm_(m.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=set_to_none)
    assert (graphs.reason, graphs.shapes) == (None, 2)
    assert (recorders.total("recorded"), recorders.total("replays")) == (4, 14)
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    assert graphs.bytes_held() >= gradients  # which replays fill, where they stay
    assert graphed_backbones(model) == [graphs]
    assert runners.bytes_of_graphs(model) == graphs.bytes_held()
    graphs.revert()
    assert graphs.bytes_held() == 0
    assert not graphed_backbones(model)


@pytest.mark.parametrize("with_cp", ["reentrant", True])
def test_checkpointed_parts(recorders, with_cp):
    model = pyramid(with_cp=with_cp)
    stock = copy.deepcopy(model)
    graph_backbone(model, 2, recorders)
    for index in range(3):
        for one in (model, stock):
            step(one, images(seed=index), index)
        same(model, stock)
    assert recorders.total("replays") == 4


def test_a_map_that_no_loss_needs_gives_no_gradients(recorders):
    model = pyramid()
    stock = copy.deepcopy(model)
    graph_backbone(model, 2, recorders)
    for index, weights in enumerate([(1, 2), (1, 2), (1, 0), (0, 1), (1, 2)]):
        for one in (model, stock):
            one.zero_grad()
            step(one, images(seed=index), index, weights)
        same(model, stock)
        assert (model.last.weight.grad is None) == (weights == (1, 0))


class BothNorms(torch.autograd.Function):
    """Two products at once. Of one that has no gradient, the factor has none."""

    @staticmethod
    def forward(ctx, x, one, two):
        ctx.save_for_backward(x, one, two)
        ctx.set_materialize_grads(False)
        return x * one, x * two

    @staticmethod
    def backward(ctx, to_first, to_second):
        x, *factors = ctx.saved_tensors
        grads = [(to, factor) for to, factor in zip((to_first, to_second), factors, strict=True)]
        to_x = sum(to * factor for to, factor in grads if to is not None)
        return to_x, *(None if to is None else (to * x).sum() for to, _ in grads)


class Joined(nn.Module):
    """Whose maps come from one function."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.one, self.two = (nn.Parameter(torch.tensor(value)) for value in (0.5, 2.0))

    def forward(self, x):
        return BothNorms.apply(self.stem(x), self.one, self.two)


def test_a_function_of_several_maps_says_itself_what_has_gradients(recorders):
    model = Joined().double()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model, 2, recorders)
    for index, weights in enumerate([(1, 2), (1, 2), (1, 0), (0, 1), (1, 2)]):
        for one in (model, stock):
            one.zero_grad()
            step(one, images(seed=index), index, weights)
        same(model, stock)
        assert (model.two.grad is None) == (weights == (1, 0))
        assert (model.one.grad is None) == (weights == (0, 1))
    assert graphs.shapes == 1


def test_gradients_of_images(recorders):
    model = swin(drop_path_rate=0.0)
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model, 2, recorders)
    for index in range(3):
        found = []
        for one in (model, stock):
            x = images(seed=index).requires_grad_()
            step(one, x * 2)
            found.append(x.grad)
        assert torch.equal(*found)
    model.requires_grad_(False)
    for _ in range(3):
        x = images().requires_grad_()
        step(model, x)
        assert x.grad is not None
    assert graphs.reason is None
    assert recorders.total("replays") == 8


def test_results_and_gradients_are_nobody_elses(recorders):
    model = pyramid().eval()
    graph_backbone(model, 2, recorders)
    for _ in range(2):
        step(model, images())
    model.zero_grad()
    _, maps = step(model, images(seed=1))
    kept = [one.detach().clone() for one in maps]
    grads = [p.grad for p in model.parameters()]
    held = [grad.clone() for grad in grads]
    model.zero_grad()
    step(model, images(seed=2))
    assert all(map(torch.equal, kept, maps))
    assert all(map(torch.equal, held, grads))
    maps[0].detach().zero_()
    assert model.stem.weight.grad.abs().sum() > 0


def test_calls_before_the_backward_pass_of_another_are_right(recorders):
    said, model = [], pyramid()
    stock = copy.deepcopy(model)
    graph_backbone(model, 2, recorders, lambda line, level: said.append(line))
    for one in (model, stock):
        for _ in range(2):
            step(one, images())
        one.zero_grad()
        torch.manual_seed(3)
        first, second = one(images(seed=1)), one(images(seed=2))
        with torch.no_grad():
            one(images(seed=3))
        loss_of(first).backward()
        loss_of(second).backward()
    same(model, stock)
    assert any("still wait for their backward pass" in line for line in said)
    before = recorders.total("replays")
    model(images())  # whose result nobody keeps
    step(model, images())
    assert recorders.total("replays") == before + 3


def test_a_pass_that_waits_while_another_is_recorded_has_its_backward_pass(recorders):
    """Its batch norm keeps statistics that a recording puts back."""
    model = pyramid()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model, 2, recorders)
    for one in (model, stock):
        torch.manual_seed(3)
        first, second = one(images(seed=1)), one(images(seed=2))
        loss_of(second).backward()
        loss_of(first).backward()
    assert graphs.shapes == 1
    same(model, stock)


class Notes(torch.autograd.Function):
    """Notes whether its backward pass runs within autocast."""

    seen: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Notes.seen.append(torch.is_autocast_enabled("cpu"))
        return grad


class Noting(Pyramid):
    def forward(self, x):
        return [Notes.apply(one) for one in super().forward(x)]


def test_a_backward_pass_is_recorded_outside_of_autocast(recorders, monkeypatch):
    """Where it runs without a graph, though the forward pass, which has it recorded, is within."""
    monkeypatch.setattr(Notes, "seen", [])
    model = Noting()
    graphs = graph_backbone(model, 2, recorders)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            maps = model(images().float())
        loss_of(maps).backward()
    assert graphs.shapes == 1
    assert Notes.seen
    assert not any(Notes.seen)


def test_what_cannot_be_differentiated_again_says_so(recorders):
    model = pyramid()
    graph_backbone(model, 2, recorders)
    step(model, images())
    loss = loss_of(model(images()))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call backward once"):
        loss.backward()
    loss = loss_of(model(images()))
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(loss, [model.stem.weight], create_graph=True)


def test_hooks_of_parameters_are_called(recorders):
    model, seen = pyramid(), []
    graph_backbone(model, 2, recorders)
    model.stem.weight.register_hook(lambda grad: seen.append("tensor"))
    model.stem.weight.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
    model.register_forward_hook(lambda *_: seen.append("model"))
    for _ in range(3):
        step(model, images())
    assert seen == ["model", "tensor", "accumulated"] * 3
    assert recorders.total("replays") == 4


@pytest.fixture
def one_process(tmp_path):
    where = f"file://{tmp_path / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("find_unused", [True, False])
def test_distributed_data_parallel(recorders, one_process, find_unused):
    model = pyramid()
    stock = copy.deepcopy(model)
    graph_backbone(model, 2, recorders)
    options = {"find_unused_parameters": find_unused, "bucket_cap_mb": 1e-4}
    wrapped = [DistributedDataParallel(one, **options) for one in (model, stock)]
    for index in range(5):
        for one in wrapped:
            one.zero_grad(set_to_none=index % 2 == 0)
            if index == 3:
                with one.no_sync():
                    step(one, images(seed=7), 7)
            step(one, images(seed=index), index, (1.0, 0.0) if find_unused else (1.0, 2.0))
        same(model, stock)
    assert recorders.total("replays") >= 8


def test_norms_that_wait_for_other_processes_are_not_recorded(recorders, one_process):
    said, model = [], nn.SyncBatchNorm.convert_sync_batchnorm(pyramid())
    graph_backbone(model, 2, recorders, lambda line, level: said.append(line))
    model.eval()
    model.drop.train()
    for _ in range(3):
        step(model, images())
    assert recorders.total("replays") == 4
    model.norm.train()
    model.norm.forward = lambda x: x
    for _ in range(3):
        step(model, images())
    assert recorders.total("replays") == 4
    assert "SyncBatchNorm waits for other processes" in said[-1]


def test_predictions(recorders):
    model = swin()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model, 2, recorders)
    for index in range(8):
        for one in (model, stock):
            one.train(index % 4 == 0)
        x = images(seed=index)
        mode = torch.inference_mode if index >= 4 else torch.no_grad
        with mode():
            torch.manual_seed(index)
            expected = stock(x)
            torch.manual_seed(index)
            found = model(x)
        assert all(map(torch.equal, found, expected))
        assert not any(one.requires_grad for one in found)
    assert graphs.shapes == recorders.total("recorded") == 2
    assert recorders.total("replays") == 4


def test_shapes_get_a_graph_when_they_come_again_and_only_so_many(recorders):
    said, model = [], pyramid()
    graphs = graph_backbone(model, 2, recorders, lambda line, level: said.append(line))
    for size in (8, 12, 16, 20, 8, 12, 16, 20, 8):
        step(model, images(size=size))
        with torch.no_grad():
            model(images(size=size))
    assert graphs.shapes == 4
    assert recorders.total("recorded") == 2 * 2 + 2
    limits = [line for line in said if "further ones run without" in line]
    assert len(limits) == 2


def _moved(model):
    model.stem.weight.data = model.stem.weight.detach().clone() * 2


def _assigned(model):
    model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()}, assign=True)


def _replaced(model):
    torch.manual_seed(9)
    model.last = nn.Conv2d(6, 2, 1).double()


def _frozen(model):
    model.stem.requires_grad_(False)


def _loaded(model):
    model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()})


def _evaluated(model):
    model.norm.eval()


@pytest.mark.parametrize(
    ("change", "recorded"),
    [(_moved, 4), (_assigned, 4), (_replaced, 4), (_frozen, 4), (_evaluated, 4), (_loaded, 2)],
)
def test_a_changed_model_is_recorded_again(recorders, change, recorded):
    model = pyramid()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model, 2, recorders)
    for index in range(6):
        for one in (model, stock):
            if index == 3:
                change(one)
            one.zero_grad()
            step(one, images(seed=index), index)
        same(model, stock)
    assert recorders.total("recorded") == recorded
    assert graphs.reason is None


def test_hooks_inside_are_called(recorders):
    said, seen, model = [], [], pyramid()
    graphs = graph_backbone(model, 2, recorders, lambda line, level: said.append(line))
    for _ in range(2):
        step(model, images())
    handle = model.last.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(2):
        step(model, images())
    assert len(seen) == 2
    assert "last has a forward hook, which a replay would not call" in said[-1]
    handle.remove()
    for _ in range(3):
        step(model, images())
    assert len(seen) == 2
    assert graphs.reason is None
    assert recorders.total("replays") == 2 + 4


class Draws(Pyramid):
    def forward(self, x):
        return super().forward(x * random.random())


class Elsewhere(Pyramid):
    def __init__(self):
        super().__init__()
        self.others = [nn.Parameter(torch.ones(1))]

    def forward(self, x):
        return super().forward(x * self.others[0])


class Unknown(Pyramid):
    def forward(self, x):
        return {"maps": super().forward(x), "sizes": {1, 2}}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Draws, "Python's random, on the host"),
        (Elsewhere, "none of its own modules'"),
        (Unknown, "a set, which is neither"),
    ],
)
def test_what_cannot_be_recorded_says_why_once(recorders, kind, words):
    torch.manual_seed(0)
    said, model = [], kind().double()
    graphs = graph_backbone(model, 2, recorders, lambda line, level: said.append(line))
    for index in range(4):
        torch.manual_seed(index)
        maps = model(images(seed=index))
        maps = maps["maps"] if isinstance(maps, dict) else maps
        loss_of(maps).backward()
    assert graphs.shapes == recorders.total("replays") == 0
    assert len(said) == 1
    assert words in said[0]


class Named(OrderedDict):
    """Values that are attributes, too, as outputs of transformers are."""

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        object.__setattr__(self, name, value)


class Words(Pyramid):
    def forward(self, x, scale=1.0, mask=None, names=("a",)):
        first, second = super().forward(x, scale)
        found = Named()
        found["first"], found["rest"] = first if mask is None else first * mask, (second, None)
        return found


def test_arguments_by_name_and_results_in_mappings(recorders):
    torch.manual_seed(0)
    model = Words().double().eval()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model, 8, recorders)
    for kwargs in [{}, {"scale": 2.0}, {"scale": 2}, {"mask": images()[:, :1], "names": ["b"]}] * 2:
        found, expected = model(images(), **kwargs), stock(x=images(), **kwargs)
        assert type(found) is Named
        assert torch.equal(found.first, expected.first)
        assert torch.equal(found["rest"][0], expected["rest"][0])
        assert found.rest[1] is None
        (found.first.sum() + found.rest[0].sum()).backward()
        del found
    assert graphs.shapes == 4
    assert model(images(), names=["c"]).first.shape == (2, 4, 16, 16)


def test_variable_length_runs_without(recorders):
    said = []
    model = swin(mask_padding=True)
    graph_backbone(model, 2, recorders, lambda line, level: said.append(line))
    x = images()
    x.valid_sizes = torch.tensor([[16, 16], [8, 12]])
    for _ in range(3):
        step(model, x)
    assert recorders.total("recorded") == 0
    assert said == [
        "calls run without a CUDA graph where the sizes of the images decide what is computed"
    ]


def test_copies_pickles_and_names(recorders):
    model = pyramid().eval()
    names, expected = list(model.state_dict()), model(images())
    graphs = graph_backbone(model, 2, recorders)
    assert list(model.state_dict()) == names
    for _ in range(2):
        with torch.no_grad():
            model(images())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = recorders.total("replays")
        with torch.no_grad():
            copied.stem.weight.mul_(2)
            assert not torch.equal(copied(images())[0], expected[0])
        assert recorders.total("replays") == before
    graphs.revert()
    assert "forward" not in vars(model)
    assert graphs.shapes == 0
    assert torch.equal(model(images())[0], expected[0])


def test_on_a_cpu_it_says_why_and_changes_nothing():
    said, model = [], pyramid()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model, say=lambda line, level: said.append(line))
    for index in range(3):
        for one in (model, stock):
            step(one, images(seed=index), index)
        same(model, stock)
    assert "on a cpu" in graphs.reason
    assert said == [f"the backbone goes on without CUDA graphs: {graphs.reason}"]


def test_torch_gets_to_see_the_operators(recorders):
    model = pyramid().eval().requires_grad_(False)
    stock = copy.deepcopy(model)
    graph_backbone(model, 2, recorders)
    for _ in range(3):
        model(images())
    x = images(seed=1)
    traced = torch.jit.trace(lambda x: tuple(model(x)), images())
    assert torch.equal(traced(x)[0], stock(x)[0])
    doubled = {name: parameter * 2 for name, parameter in model.named_parameters()}
    found, expected = (torch.func.functional_call(one, doubled, (x,)) for one in (model, stock))
    assert torch.equal(found[0], expected[0])
    tangents = (torch.ones_like(x),)
    (_, found), (_, expected) = (torch.func.jvp(one, (x,), tangents) for one in (model, stock))
    assert torch.equal(found[0], expected[0])


def test_a_graphed_backbone_is_explained_and_keeps_its_graphs(recorders):
    said, model = [], swin().eval()
    expected = explain(model, images(), show=False)
    graphs = graph_backbone(model, 2, recorders, lambda line, level: said.append(line))
    with torch.no_grad():
        for _ in range(3):
            model(images())
    assert explain(model, images(), show=False) == expected
    with torch.no_grad():
        model(images())
    assert graphs.shapes == recorders.total("recorded") == 1
    assert len(said) == 1


def test_threads_do_not_meet_in_a_graph(recorders):
    model = pyramid().eval()
    stock, found = copy.deepcopy(model), []
    graph_backbone(model, 2, recorders)

    def in_a_thread():
        with torch.no_grad():
            found.append(model(images(seed=1)))

    with torch.no_grad():
        for _ in range(2):
            model(images())
        model.last.forward = meet = in_between(model.last, in_a_thread)
        first = model(images())
        assert torch.equal(first[1], stock(images())[1])
    assert meet.calls == 2
    assert torch.equal(found[0][1], stock(images(seed=1))[1])
    assert recorders.total("replays") == 2


def test_arguments_are_checked(recorders):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        graph_backbone("swin")
    with pytest.raises(ValueError, match="must have parameters, got a ReLU"):
        graph_backbone(nn.ReLU())
    for value in (0, True, 1.5, None):
        with pytest.raises(ValueError, match="most_shapes must be an integer of at least 1"):
            graph_backbone(pyramid(), value)
    model = pyramid()
    graph_backbone(model)
    with pytest.raises(ValueError, match="has graphs in forward already"):
        graph_backbone(model)


def test_accelerate_finds_the_encoder():
    class Segmentor(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = swin(), nn.Conv2d(8, 2, 1)

    model = Segmentor()
    report = accelerate(model, graphs=True)
    rows = [row for row in report.rows if row.rewrite == "graphs"]
    assert [(row.modules, row.kind, bool(row.what)) for row in rows] == [
        (("encoder",), "SwinBackbone", True)
    ]
    assert "forward" in vars(model.encoder)
    report.revert()
    assert "forward" not in vars(model.encoder)
    assert not [row for row in accelerate(model).rows if row.rewrite == "graphs"]
    with pytest.raises(TypeError, match="graphs must be True or False, got 1"):
        accelerate(model, graphs=1)


def test_another_method_than_forward(recorders):
    class Deep(Pyramid):
        def forward(self, x):
            return self.deep(self.stem(x)[:, :4])

    torch.manual_seed(0)
    stock = Deep().double()
    model = copy.deepcopy(stock)
    graphs = graph_backbone(model, 2, recorders, method="deep")
    for seed in range(3):
        found, expected = (one(images(seed=seed)) for one in (model, stock))
        assert torch.equal(found, expected)
        for one in (found, expected):
            one.sum().backward()
    for one, other in zip(model.parameters(), stock.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)
    assert (graphs.shapes, recorders.total("replays")) == (1, 4)
    with pytest.raises(ValueError, match="graphs in deep already"):
        graph_backbone(model, 2, recorders, method="deep")
    graphs.revert()
    assert "deep" not in vars(model)


@pytest.mark.parametrize("options", [{"method": "dep"}, {"method": "deep", "head": "last"}])
def test_no_such_method(recorders, options):
    with pytest.raises(ValueError, match="method must be the name of a method"):
        graph_backbone(pyramid(), 2, recorders, **options)
