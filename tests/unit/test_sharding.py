"""Parameters spread by fully_shard: what goes together, and one process that has all of them."""

import copy

import pytest
import torch
import torch.distributed as dist
from helpers.graph_recorders import RunsAgain
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from swin_backbone import SwinBackbone, accelerate, create, graph_backbone
from swin_backbone.model.sharding import (
    own_part,
    shard,
    spread_optimizer_state,
    step_on_own_parts,
    units,
    whole_optimizer_state,
    whole_state_dict,
)

SMALL = {"embed_dims": 8, "depths": (1, 2), "num_heads": (1, 2), "strides": (4, 2)}
SMALL |= {"out_indices": (0, 1), "window_size": 3}
MIB = 2**20


class Means(nn.Module):
    """A backbone and the mean of its squared maps."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images, sizes=None):
        return sum(x.square().mean() for x in self.backbone(images, sizes))


@pytest.fixture
def joined(tmp_path):
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def bytes_of(module):
    return sum(p.numel() * p.element_size() for p in module.parameters())


@pytest.mark.parametrize("architecture", ["tiny", "large", "swinv2_base_window8"])
@pytest.mark.parametrize("unit_mb", [1e-6, 10, 25, 1e6])
def test_units_are_neighbours_and_just_full(architecture, unit_mb):
    with torch.device("meta"):
        backbone = create(architecture)
    found = [unit for unit, _ in units(nn.Sequential(backbone), unit_mb)]
    blocks = [block for stage in backbone.stages for block in stage.blocks]
    assert [block for unit in found for block in unit] == blocks
    for unit in found[:-1]:
        held = [bytes_of(block) for block in unit]
        assert sum(held) >= unit_mb * MIB > sum(held[:-1])


def test_stages_that_do_not_run_are_apart():
    """Or what follows would be gathered for nothing, and never freed."""
    backbone = SwinBackbone(**{**SMALL, "out_indices": (0,)})
    found = list(units(backbone, 1e6))
    assert found == [
        ([*backbone.stages[0].blocks], True),
        ([*backbone.stages[1].blocks], False),
    ]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("unit_mb", [1e-6, 25, None])
def test_one_process_computes_and_saves_the_same(joined, version, unit_mb):
    torch.manual_seed(0)
    model = Means(SwinBackbone(**SMALL, version=version, drop_path_rate=0.5))
    other = copy.deepcopy(model)
    shard(model, unit_mb=unit_mb)
    images = torch.randn(3, 3, 20, 28)
    optimizers = [torch.optim.AdamW(m.parameters(), 1e-2, fused=True) for m in (model, other)]
    for _ in range(2):
        for each, optimizer in zip((model, other), optimizers, strict=True):
            torch.manual_seed(1)  # drop path draws the same, whoever is sharded
            optimizer.zero_grad()
            each(images).backward()
            optimizer.step()
    state, expected = whole_state_dict(model), other.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    moments, expected = whole_optimizer_state(optimizers[0]), optimizers[1].state_dict()
    torch.testing.assert_close(moments, expected, rtol=0, atol=0)
    assert whole_state_dict(model, keep=False) == {}
    optimizers[0].load_state_dict(spread_optimizer_state(optimizers[0], moments))
    assert whole_optimizer_state(optimizers[0])["state"].keys() == moments["state"].keys()
    del moments["param_groups"][0]["params"][0]
    with pytest.raises(ValueError, match=r"is of \d+ parameters, not of"):
        spread_optimizer_state(optimizers[0], moments)


@pytest.mark.parametrize("given_back", [False, True])
def test_graphs_of_a_backbone_that_is_gathered_as_one(joined, given_back):
    """Of the weights as they are in each step, though these are gathered elsewhere: the same bits,
    in training and predictions, by graphs from the second step on."""
    models = [Means(SwinBackbone(**SMALL, drop_path_rate=0.0)).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        shard(model, unit_mb=None, reshard_after_forward=given_back)
    recorder = RunsAgain()
    graphs = graph_backbone(models[1].backbone, record_on=lambda device: recorder)
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-2) for model in models]
    for step in range(4):
        images, replays = torch.randn(3, 3, 20, 28, dtype=torch.float64), recorder.replays
        found = []
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss = model(images)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                found.append((loss.detach(), model(images)))
        assert found[0] == found[1]
        assert recorder.replays == replays + (0 if step == 0 else 3), graphs.reason
    expected, state = map(whole_state_dict, models)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert graphs.bytes_held() > bytes_of(models[0].backbone)
    graphs.revert()
    assert models[1](images) == models[0](images)


@pytest.mark.parametrize("enabled", [False, True])
def test_maps_of_a_backbone_that_is_gathered_in_bfloat16(joined, enabled):
    """Autocast's dtype within it, the images' own outside, as where only blocks are."""
    images, kinds = torch.randn(2, 3, 20, 28), []
    for unit_mb in (25, None):
        model = nn.Sequential(SwinBackbone(**SMALL))
        shard(model, "cpu", unit_mb, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), torch.no_grad():
            maps = model(images)
            kinds.append((type(maps), *(one.dtype for one in maps)))
    dtype = torch.bfloat16 if enabled else torch.float32
    assert kinds[0] == kinds[1] == (list, dtype, dtype)


@pytest.mark.parametrize("option", ["mask_padding", "packed"])
def test_what_a_backbone_gathered_in_bfloat16_is_called_with(joined, option):
    """Outside of autocast: sizes that images bring along count, names do, other dtypes do not."""

    class Passing(nn.Sequential):
        def forward(self, *args, **kwargs):
            return self[0](*args, **kwargs)

    model = Passing(SwinBackbone(**SMALL, **{option: True})).eval()
    shard(model, "cpu", None, torch.bfloat16)
    images, sizes = torch.randn(2, 3, 20, 28), torch.tensor([[20, 28], [9, 13]])
    with torch.no_grad():
        whole = model(images, torch.tensor([[20, 28]] * 2))
        expected, named = model(images, sizes), model(x=images, valid_sizes=sizes)
        images.valid_sizes = sizes
        found = model(images)
    for one, by_name, brought, other in zip(expected, named, found, whole, strict=True):
        assert torch.equal(one, by_name)
        assert torch.equal(one, brought)
        assert not torch.equal(one, other), "sizes count"
    with pytest.raises(TypeError, match="images must have the dtype of the weights"):
        model(images.double())


def test_no_graphs_of_what_is_gathered_in_parts(joined):
    model = Means(SwinBackbone(**SMALL))
    shard(model, unit_mb=25)
    reason = graph_backbone(model.backbone, record_on=lambda device: RunsAgain()).reason
    assert "of type DTensor, as sharded ones are" in reason


def test_accelerate_graphs_the_part_that_is_gathered(joined):
    """The backbone, not the segmentor that has it."""
    model = Means(SwinBackbone(**SMALL))
    model.extract_feat = model.backbone.forward
    report = accelerate(shard(model, unit_mb=None), graphs=True)
    assert [row.modules for row in report.replaced if row.rewrite == "graphs"] == [("backbone",)]


OPTIMIZERS = {
    "plain": (Adam, {"foreach": False}),
    "foreach": (AdamW, {"foreach": True}),
    "fused": (AdamW, {"fused": True}),
    "amsgrad": (AdamW, {"amsgrad": True, "fused": True}),
    "maximized": (Adam, {"maximize": True, "weight_decay": 0.1}),
    "others": (SGD, {"momentum": 0.9}),
    "and others": (RMSprop, {}),
}


@pytest.mark.parametrize("scaled", [False, True], ids=["unscaled", "scaled"])
@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_steps_on_own_parts(joined, kind, options, scaled):
    """The same weights and moments, to the bit, by operations on plain tensors."""
    by_parts, other = (
        shard(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))) for _ in range(2)
    )
    by_parts[2].bias.requires_grad_(False)
    other[2].bias.requires_grad_(False)
    other.load_state_dict(by_parts.state_dict())
    optimizers = [kind([*m.parameters()], lr=0.1, **options) for m in (by_parts, other)]
    assert step_on_own_parts(optimizers[0]) is optimizers[0]
    inputs = torch.randn(3, 5, 3)
    for model, optimizer in zip((by_parts, other), optimizers, strict=True):
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**10)
        for batch in inputs:
            optimizer.zero_grad()
            scaler.scale(model(batch).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    for own, expected in zip(by_parts.parameters(), other.parameters(), strict=True):
        assert torch.equal(own_part(own), own_part(expected))
    moments, expected = (whole_optimizer_state(optimizer) for optimizer in optimizers)
    torch.testing.assert_close(moments, expected, rtol=0, atol=0)
    states = [state for name, state in optimizers[0].state.items() if name is by_parts[0].weight]
    moments = [value for value in states[0].values() if getattr(value, "ndim", 0)]
    assert {type(value) for value in moments} == {DTensor}


class Types(TorchDispatchMode):
    """Types of what operations are given."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen |= {type(leaf) for leaf in tree_leaves((args, kwargs))}
        return func(*args, **(kwargs or {}))


def test_adam_does_not_see_shards(joined):
    """Nor does the host pay for them: no operation of a step is one of DTensor's."""
    model = shard(nn.Linear(3, 4))
    seen = []
    for prepare in (step_on_own_parts, lambda optimizer: optimizer):
        optimizer = prepare(AdamW(model.parameters(), fused=True))
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()  # makes its state
        with Types() as types:
            optimizer.step()
        seen.append(DTensor in types.seen)
    assert seen == [False, True]


@pytest.mark.parametrize("options", [{"mask_padding": True}, {"packed": True}], ids=str)
@pytest.mark.filterwarnings("error:no valid_sizes")
def test_sizes_of_images_get_through(joined, options):
    model = Means(SwinBackbone(**SMALL, **options)).eval()
    images = torch.randn(2, 3, 20, 28)
    images.valid_sizes = torch.tensor([(20, 13), (9, 28)])
    expected, whole_batch = model(images), model(images, torch.tensor([(20, 28), (20, 28)]))
    torch.testing.assert_close(shard(model)(images), expected)
    assert (whole_batch - expected).abs() > 1e-2, "sizes change nothing"


def test_weights_of_other_memory_formats_and_buffers(joined):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last
    )
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shard(model)
    assert type(model[0].weight) is not nn.Parameter
    assert type(own_part(model[0].weight)) is torch.Tensor
    model.load_state_dict({name: tensor + 1 for name, tensor in expected.items()})
    for name, tensor in whole_state_dict(model).items():
        assert torch.equal(tensor, expected[name] + 1)


def test_what_cannot_be_spread_is_refused(joined):
    model = nn.Linear(2, 2)
    model.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="scale has none: train this model with DDP"):
        shard(model)
    for size in (0, -1.0, "25", True, float("nan")):
        with pytest.raises(ValueError, match="unit_mb must be a number above 0"):
            shard(nn.Linear(2, 2), unit_mb=size)
    for size in (1, None, "yes"):  # PyTorch takes numbers, of processes to spread over instead
        with pytest.raises(TypeError, match="reshard_after_forward must be True or False"):
            shard(nn.Linear(2, 2), reshard_after_forward=size)


@pytest.mark.parametrize("reshard_after_forward", [True, False])
def test_blocks_are_whole_between_passes_if_asked(joined, reshard_after_forward):
    model = Means(SwinBackbone(**SMALL))
    shard(model, unit_mb=1e-6, reshard_after_forward=reshard_after_forward)
    blocks = [block for stage in model.backbone.stages for block in stage.blocks]
    loss = model(torch.randn(1, 3, 20, 28))
    spread = [isinstance(next(block.parameters()), DTensor) for block in blocks]
    assert spread == [reshard_after_forward] * len(blocks)
    loss.backward()
    assert all(isinstance(p, DTensor) for p in model.parameters())


def test_without_processes_it_says_how_to_start(monkeypatch):
    with pytest.raises(ValueError, match=r"start with a launcher, as tools/dist_train\.sh"):
        shard(nn.Linear(2, 2))
    monkeypatch.delattr("torch.distributed.fsdp.fully_shard")
    with pytest.raises(ImportError, match=r"fully_shard needs PyTorch 2\.6"):
        shard(nn.Linear(2, 2))
