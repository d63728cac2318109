"""Accelerated encoders of other libraries under torch.compile: our operations in its graphs.

What is compiled with float64 computes the same sums: 1e-10 relative to a tensor's norm, as much as
all ways of an encoder may differ in.
"""

import copy
import re
from collections import Counter
from functools import partial

import pytest
import torch
from helpers import compiled_steps as steps
from helpers import hooks_that_come_later
from helpers.errors import relative_error
from helpers.graph_recorders import RunsAgain
from helpers.models_with_swin import IMAGE, make_case
from helpers.peers import PEERS, make_theirs
from helpers.pretended_gpu import move, pretended_gpu
from torch import nn

import swin_backbone
from swin_backbone.acceleration import graphed_encoders
from swin_backbone.graphs import graph_backbone
from swin_backbone.ops.versions import release

SIZES = {"embed_dims": 32, "depths": (2, 1), "num_heads": (1, 2), "window_size": 2}
PAIRS = [
    (n, v) for n in ("transformers", "timm", "torchvision", "mmseg") for v in PEERS[n].versions
]
ONE_FAST = [
    pytest.param(*pair, marks=() if pair == ("transformers", "v1") else pytest.mark.slow)
    for pair in PAIRS
]

#: What dynamo says of ours that it cannot know for sure.
pytestmark = pytest.mark.filterwarnings("error:Dynamo detected a call")


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Functions of many tests share code, of which torch compiles a few variants only."""
    torch._dynamo.reset()
    with hooks_that_come_later.seen():
        yield


def make(name, version="v1", drop_path=0.0, **sizes):
    model = make_theirs(name, version, image_size=16, **{**SIZES, **sizes})
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = drop_path
        elif type(module).__name__ == "StochasticDepth":
            module.p = drop_path
    assert swin_backbone.accelerate(model, pools=False, channels_last=False).replaced
    return model


def differentiate(call, model, images):
    """Maps and gradients, flat."""
    images = images.clone().requires_grad_()
    model.zero_grad()
    torch.manual_seed(0)  # drop path draws the same
    maps = call(images)
    generator = torch.Generator().manual_seed(1)
    sum((m * torch.randn(m.shape, generator=generator).to(m)).sum() for m in maps).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    maps = torch.cat([m.detach().flatten() for m in maps])
    return maps, torch.cat([*gradients, images.grad.flatten()])


def assert_same(found, expected, tolerance=1e-10):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) <= tolerance


def maps_of(name, model):
    return lambda images: PEERS[name].maps(model, images)


@pytest.mark.parametrize(("name", "version"), ONE_FAST)
def test_one_graph_for_all_blocks_and_steps(name, version):
    """One graph in evaluation and one in training, however often these come and weights change."""
    model = make(name, version, drop_path=0.5).double()
    run = maps_of(name, model)
    call, graphs = steps.compiled(run)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for training, count in [(False, 1), (True, 2), (True, 2), (False, 2)]:
        model.train(training)
        assert_same(differentiate(call, model, images), differentiate(run, model, images))
        assert graphs.frame_count == count
        optimizer.step()


@pytest.mark.parametrize(
    "name",
    [
        "transformers",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("timm", "torchvision", "mmseg")),
    ],
)
def test_no_breaks_where_the_model_has_none(name):
    """By blocks that are rewritten, nor by what looks at them, of a model that is called whole."""
    model = make(name)
    report = torch._dynamo.explain(model)(torch.randn(1, 3, 16, 16))
    assert report.break_reasons == []
    assert report.graph_count == 1


@pytest.mark.slow  # whole heads, twice
@pytest.mark.parametrize("name", ["UperNet", "Mask2Former", "DETR", "timm, features"])
def test_whole_models_break_no_more_than_they_did(name):
    model, _ = make_case(name)
    fast = copy.deepcopy(model)
    swin_backbone.accelerate(fast)
    images, found = torch.randn(1, 3, IMAGE, IMAGE), []
    for one in (model, fast):
        torch._dynamo.reset()
        found.append(torch._dynamo.explain(one)(images).graph_break_count)
    assert found[1] <= found[0]


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def put_another_layer(block):
    layer = block.mlp.fc2
    block.mlp.fc2 = Doubled(layer.in_features, layer.out_features, dtype=torch.float64)


def change_eps(block):
    block.layernorm_before.eps = 0.5


def hook_a_layer(block):
    block.mlp.fc1.register_forward_hook(lambda module, inputs, output: 2 * output)


def hook_the_block(block):
    block.register_forward_hook(lambda module, inputs, output: (2 * output[0], *output[1:]))


def exchange_attention(block):
    """A class of its own: the block's other forward does not stand for it."""

    class Halved(type(block.attention)):
        def forward(self, *arguments, **options):
            out, *rest = super().forward(*arguments, **options)
            return (out / 2, *rest)

    block.attention.__class__ = Halved


def give_a_forward(block):
    plain = block.mlp.forward
    block.mlp.forward = lambda x: 3 * plain(x)


def change_the_windows(block):
    block.shift_size = 0


def freeze(block):
    block.mlp.fc1.weight.requires_grad_(False)


CHANGES = [exchange_attention, give_a_forward]
CHANGES += [
    pytest.param(change, marks=pytest.mark.slow)
    for change in (
        put_another_layer,
        hook_a_layer,
        change_eps,
        hook_the_block,
        change_the_windows,
        freeze,
    )
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_afterwards_is_seen(change):
    """By the graph that was made before, as by an eager call of the accelerated model, which
    computes what the untouched one does."""
    model = make("transformers").double()
    run = maps_of("transformers", model)
    counter = steps.CompileCounterWithBackend("eager")
    call = torch.compile(run, backend=counter)
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    before = differentiate(call, model, images)
    blocks = [module for module in model.modules() if type(module).__name__ == "SwinLayer"]
    change(blocks[1])
    graphs = counter.frame_count
    found = differentiate(call, model, images)
    if change is not freeze or release(torch.__version__) >= (2, 14):  # 2.11's graph serves both
        assert counter.frame_count > graphs
    assert_same(found, differentiate(run, model, images))
    assert found[1].shape != before[1].shape or relative_error(found[0], before[0]) > 1e-6


def test_reverted_and_accelerated_again():
    """The compiled model follows."""
    model = make_theirs("torchvision", "v1", image_size=16, **SIZES).double()
    counter = steps.CompileCounterWithBackend("eager")
    call = torch.compile(model, backend=counter, fullgraph=True)
    images, found = torch.randn(1, 3, 16, 16, dtype=torch.float64), []
    found.append(call(images))
    report = swin_backbone.accelerate(model, pools=False, channels_last=False)
    found.append(call(images))
    assert counter.frame_count == 2
    report.revert()
    found.append(call(images))
    assert torch.equal(found[0], found[2])
    assert relative_error(found[1], found[0]) <= 1e-10


def test_cuda_graphs_step_aside(monkeypatch):
    """A compiled model is one graph of torch.compile's, and none is recorded."""
    recorders = []

    def record_on(device):
        recorders.append(RunsAgain())
        return recorders[-1]

    graph = partial(graph_backbone, record_on=record_on)
    monkeypatch.setattr(graphed_encoders, "graph_backbone", graph)
    model = make_theirs("transformers", "v1", image_size=16, **SIZES)
    swin_backbone.accelerate(model, graphs=True, pools=False, channels_last=False)
    call = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        for run, count in [(call, 0), (call, 0), (call, 0), (model, 0), (model, 1)]:
            run(images)
            assert [recorder.recorded for recorder in recorders] == [count]


@pytest.mark.slow  # two models of every library
@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_blocks_that_are_compiled_one_by_one(name, version):
    """Blocks of the same sizes share graphs, as those of the untouched model do."""
    images, found = torch.randn(1, 3, 16, 16), []
    fast = make(name, version, depths=(4, 1))
    plain = copy.deepcopy(fast)
    for module in plain.modules():
        module.__dict__.pop("forward", None)
    for model in (plain, fast):
        torch._dynamo.reset()
        graphs = steps.CompileCounterWithBackend("eager")
        for module in model.modules():
            if re.search("Block|SwinLayer|Swinv2Layer", type(module).__name__):
                module.compile(backend=graphs)
        with torch.no_grad():
            PEERS[name].maps(model, images)
        found.append(graphs.frame_count)
    assert 0 < found[1] <= found[0]


@pytest.mark.slow  # compiles what it recomputes, too
def test_blocks_that_recompute():
    """transformers' gradient checkpointing: the same gradients, in one graph."""
    model = make("transformers", drop_path=0.0).double().train()
    run = maps_of("transformers", model)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = differentiate(run, model, images)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    call, graphs = steps.compiled(run)
    assert_same(differentiate(call, model, images), expected)
    assert graphs.frame_count == 1


@pytest.mark.slow  # makes code
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_inductor(version):
    """Under autocast, too; float32 within what sums in another order differ by."""
    model = make("transformers", version).train()
    run = maps_of("transformers", model)
    images = torch.randn(2, 3, 16, 16)
    for low, tolerance in [(False, 1e-5), (True, 3e-2)]:
        torch._dynamo.reset()

        def cast(images, low=low):
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                return run(images)

        call = torch.compile(cast, fullgraph=True)
        found, expected = (differentiate(one, model, images) for one in (call, cast))
        assert_same(found, expected, tolerance)


# As on a GPU, of which only the tracing is here.


def traced(model, monkeypatch, calls):
    """Names of the operators of each graph that ``calls`` make, images of sizes one by one."""
    graphs = []

    def keep(graph, inputs):
        names = [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]
        graphs.append(Counter(name.split(".")[1] for name in names if "swin_backbone." in name))
        return graph.forward

    with pretended_gpu(monkeypatch):
        move(model)
        call = torch.compile(model, fullgraph=True, backend=keep)
        for before, size in calls:
            before()
            with torch.autocast("cuda", torch.float16):
                call(torch.randn(2, 3, *size, device="cuda"))
    return graphs


KERNELS = {
    "v1": {"residual_attention": 3, "residual_mlp": 3},
    "v2": {"attention_terms": 3, "post_norm_attention": 3, "post_norm_mlp": 3},
}


@pytest.mark.parametrize(("name", "version"), ONE_FAST)
def test_kernels_are_in_one_graph(name, version, monkeypatch):
    """Of evaluation, and of training; weights are cast once in each block, and in merging."""
    model = make(name, version, drop_path=0.5)
    calls = [(lambda m=mode: model.train(m), (16, 16)) for mode in (False, False, True, False)]
    graphs = traced(model, monkeypatch, calls)
    assert len(graphs) == 2
    for found in graphs:
        assert {kernel: found[kernel] for kernel in KERNELS[version]} == KERNELS[version]
        assert found["cast_together"] <= 3 + found["merge_reduce"]
        assert not {"window_attention", "window_rows"} & found.keys()


@pytest.mark.slow  # symbols of sizes
@pytest.mark.parametrize("name", ["transformers", "torchvision", "mmseg"])
def test_graphs_of_many_sizes(name, monkeypatch):
    """One of the first size, of another height, of another width, and where patches or merging fill
    maps up (torchvision: one for each); then those serve all sizes."""
    sizes = [(16, 16), (24, 16), (16, 32), (20, 28), (23, 15), (40, 36), (41, 33), (64, 48)]
    most = 5 if name == "torchvision" else 4
    for some in (sizes[:5], sizes):
        torch._dynamo.reset()
        calls = [(lambda: None, size) for size in some]
        assert len(traced(make(name), monkeypatch, calls)) == most
