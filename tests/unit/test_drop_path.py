"""Stochastic depth: what is drawn, by whom, and for which blocks together."""

import copy
import pickle

import pytest
import torch
from torch import nn

from swin_backbone import SwinBackbone
from swin_backbone.model import DropPath
from swin_backbone.model.drop_path import sample_together
from swin_backbone.ops import MAPS, Packing, TokenLayout

RATES = (0.0, 0.25, 0.5, 1.0)


def drop_paths(rates=RATES):
    return [DropPath(rate).train() for rate in rates]


def make(**options):
    torch.manual_seed(0)
    sizes = {"embed_dims": 8, "depths": (2, 3), "num_heads": (1, 2), "strides": (4, 2)}
    sizes |= {"out_indices": (0, 1), "window_size": 4, "drop_path_rate": 0.5}
    return SwinBackbone(**(sizes | options)).train()


def test_each_branch_has_its_own_distribution_and_is_independent():
    """20,000 draws: a frequency is within 5 standard deviations, of at most 0.0036 each, and so is
    the covariance of two."""
    torch.manual_seed(0)
    drawn = sample_together(drop_paths(), torch.empty(20000, 1))
    assert drawn[0] is None
    branches = torch.stack([branch for pair in drawn[1:] for branch in pair])
    assert branches.dtype == torch.float32
    rates = torch.tensor(RATES[1:]).repeat_interleave(2)
    kept = branches != 0
    for rate, own in zip(rates.tolist(), branches, strict=True):
        values = set(own.unique().tolist())
        assert values == ({0.0} if rate == 1.0 else {0.0, torch.tensor(1 / (1 - rate)).item()})
    assert (kept.float().mean(1) - (1 - rates)).abs().max() < 5 * 0.0036
    covariance = torch.cov(kept.double())
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 5 * 0.0036
    neighbours = torch.stack([kept[:4, :-1].double(), kept[:4, 1:].double()]).flatten(0, 1)
    assert torch.cov(neighbours)[:4, 4:].abs().max() < 5 * 0.0036, "images are independent too"


def test_values_are_those_of_a_branch_by_itself():
    one = DropPath(0.3).train()
    alone = one.sample(torch.empty(1000, 1)).unique()
    together = torch.cat(sample_together([one], torch.empty(1000, 1))[0]).unique()
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=0)  # a quotient, rounded


@pytest.mark.parametrize("images", [1, 3, 4, 6])
def test_kernels_get_aligned_rows(images):
    for pair in sample_together(drop_paths((0.5, 0.5)), torch.empty(images, 1)):
        for branch in pair:
            assert branch.shape == (images,)
            assert branch.is_contiguous()
            assert branch.data_ptr() % 16 == 0


def test_packed_images_are_dropped_whole():
    packing = Packing(((2, 3), (1, 4), (3, 3)))
    for pair in sample_together(
        drop_paths((0.5, 0.5)), torch.empty(19, 1), TokenLayout(packing=packing)
    ):
        for branch in pair:
            assert branch.shape == (19,)
            for part in branch.split(packing.counts):
                assert len(part.unique()) == 1


def test_nothing_is_drawn_where_nothing_is_dropped():
    evaluated = DropPath(0.5).eval()
    state = torch.get_rng_state()
    x = torch.empty(2, 1)
    assert sample_together([evaluated, None, DropPath(0.0).train()], x) == [None] * 3
    assert torch.equal(torch.get_rng_state(), state)


def record_factors(model):
    """What each block was given last, by name; a block that is called by a wrapper, nothing."""
    given = {}

    def hook(name):
        return lambda block, inputs: given.__setitem__(name, inputs[1].path_scales)

    for name, block in model.named_modules():
        if hasattr(block, "drop_path"):
            block.register_forward_pre_hook(hook(name))
    return given


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_stage_draws_for_blocks_in_training(version):
    model = make(version=version, frozen_stages=1)
    model.stages[1].blocks[1].eval()
    given = record_factors(model)
    model(torch.randn(2, 3, 16, 16))
    drawn = {name for name, factors in given.items() if factors is not None}
    assert drawn == {"stages.1.blocks.0", "stages.1.blocks.2"}
    model.eval()(torch.randn(2, 3, 16, 16))
    assert set(given.values()) == {None}


class Wrapped(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, layout, copies):
        assert layout.path_scales is None
        return self.block(x, layout, copies)


class Stubborn(DropPath):
    def sample(self, x, layout=None):
        return torch.zeros(x.shape[0])


def test_blocks_draw_by_themselves_where_they_are_wrapped_or_their_own():
    model = make()
    blocks = model.stages[1].blocks
    blocks[0] = Wrapped(blocks[0])
    blocks[1].drop_path = Stubborn(0.5)
    given = record_factors(model)
    blocks[2].drop_path.drop_prob = 1.0
    maps = model(torch.randn(2, 3, 16, 16))
    assert given["stages.1.blocks.1"] is None
    assert all(features.isfinite().all() for features in maps)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("act", ["GELU", "ReLU"])
def test_a_block_alone_draws_for_itself(version, act):
    """With everything dropped, what is left is the input (V2's norm3 is none here)."""
    block = make(version=version, act_cfg={"type": act}).stages[0].blocks[1]
    block.drop_path.drop_prob = 1.0
    x = torch.randn(2, 5, 3, 8)
    assert torch.equal(block(x), x)
    assert not torch.equal(block.eval()(x), x)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("act", ["GELU", "ReLU"])
def test_a_block_uses_what_it_is_given(version, act):
    block = make(version=version, act_cfg={"type": act}).stages[0].blocks[1]
    x = torch.randn(2, 5, 3, 8)
    kept, none = torch.tensor([1.0, 0.0]), torch.zeros(2)
    whole = block.eval()(x)
    block.train()
    torch.testing.assert_close(block(x, TokenLayout(path_scales=(kept, kept)))[0], whole[0])
    assert torch.equal(block(x, TokenLayout(path_scales=(kept, kept)))[1], x[1])
    assert not torch.allclose(block(x, TokenLayout(path_scales=(kept, none)))[0], whole[0])
    assert torch.equal(block(x, TokenLayout(path_scales=(none, none))), x)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_checkpointing_drops_the_same_images_again(version):
    images = torch.randn(4, 3, 16, 16)
    results = []
    for with_cp in (False, True):
        model = make(version=version, with_cp=with_cp)
        torch.manual_seed(1)
        sum(features.square().sum() for features in model(images)).backward()
        results.append([p.grad for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_compiles_whole(dynamic):
    """One stage: with symbols for sizes, each more takes half a minute."""
    model = make(depths=(2,), num_heads=(1,), strides=(4,), out_indices=(0,))
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    given = torch.randn(3, 3, 16, 16)
    (first,) = compiled(given)
    assert first.shape == (3, 8, 4, 4)
    assert any(not torch.equal(compiled(given)[0], first) for _ in range(20)), "drawn again"


def test_nothing_of_it_is_kept_by_the_model():
    model = make()
    model(torch.randn(2, 3, 16, 16))
    with torch.inference_mode():
        model(torch.randn(2, 3, 16, 16))
    assert not list(model.buffers())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        sum(features.sum() for features in twin(torch.randn(2, 3, 16, 16))).backward()


def test_fake_tensors_leave_nothing_behind():
    from torch._subclasses.fake_tensor import FakeTensorMode

    rates = drop_paths((0.123,))
    with FakeTensorMode():
        sample_together(rates, torch.empty(2, 1))
    assert type(sample_together(rates, torch.empty(2, 1))[0][0]) is torch.Tensor


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("options", "draws"),
    [
        ({"drop_path_rate": 0.0}, False),
        ({"drop_path_rate": 0.3}, True),  # unless it was drawn for the block
        ({"drop_path_rate": 0.0, "drop_rate": 0.1}, True),
        ({"drop_path_rate": 0.0, "attn_drop_rate": 0.1}, True),
    ],
)
def test_a_checkpoint_keeps_the_generators_state_for_blocks_that_draw(options, draws, version):
    model = SwinBackbone(embed_dims=8, depths=(2, 2), num_heads=(1, 2), strides=(4, 2),
                         out_indices=(0, 1), window_size=3, version=version, **options)  # fmt: skip
    block = model.stages[1].blocks[1]
    assert block.train().draws() == draws
    assert not block.eval().draws()
    block.train().mlp.act = nn.RReLU()
    assert block.draws()


def test_a_block_whose_drop_path_is_drawn_draws_nothing():
    block = SwinBackbone(embed_dims=8, depths=(1,), num_heads=(1,), strides=(4,), out_indices=(0,),
                         window_size=3, drop_path_rate=0.3).stages[0].blocks[0]  # fmt: skip
    block.drop_path.drop_prob = 0.3
    scale = torch.ones(2)
    assert block.draws()
    assert not block.draws(MAPS.with_path_scales((scale, scale)))
