"""Optimizers have the groups of the same run with stock backbones, frozen stages included."""

import copy
import importlib
import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from torch import nn

from swin_backbone import SwinBackbone
from swin_backbone.openmmlab.stock_parameter_groups import install_stock_groups, with_aliases

SIZES = {"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2)}
SIZES |= {"out_indices": (0, 1), "window_size": 3, "drop_path_rate": 0.0}
NO_DECAY = {"decay_mult": 0.0}
PARAMWISE = {
    "one group": None,
    "official": {
        "custom_keys": {
            "absolute_pos_embed": NO_DECAY,
            "relative_position_bias_table": NO_DECAY,
            "norm": NO_DECAY,
        }
    },
    "by mmseg's names": {
        "custom_keys": {
            "w_msa": {"lr_mult": 0.5},
            "attn.w_msa.relative_position_bias_table": NO_DECAY,
            "ffn": {"lr_mult": 2.0},
            "backbone.stages.0.blocks.1.ffn.layers.0.0.weight": {"lr_mult": 3.0},
            "head": {"lr_mult": 10.0},
        }
    },
    "by kind": {"norm_decay_mult": 0.0, "bias_lr_mult": 2.0, "flat_decay_mult": 0.5},
}
DEFAULT = "DefaultOptimWrapperConstructor"
LAYER_DECAY = "SwinLayerDecayOptimWrapperConstructor"


class Model(BaseModule):
    """A backbone and a head, as in a segmentor."""

    def __init__(self, backbone, **options):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = backbone(**{**SIZES, **options})
        self.head = nn.Conv2d(self.backbone.num_features[self.backbone.out_indices[-1]], 2, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))

    def forward(self, images):
        maps = self.backbone(images)
        return maps[0].square().mean() + self.head(maps[-1]).square().mean()


def stock(package):
    backbones = pytest.importorskip(f"{package}.models.backbones", reason=f"{package} is missing")
    return backbones.SwinTransformer


def build(model, paramwise_cfg, constructor=DEFAULT):
    config = {
        "constructor": constructor,
        # Gradients that are zero but for rounding stay what they are with a large eps.
        "optimizer": {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.1, "eps": 1e-3},
        "paramwise_cfg": copy.deepcopy(paramwise_cfg),
    }
    return build_optim_wrapper(model, config)


def steps(model, wrapper, number, seed):
    model.train()  # after the optimizer is built, as mmengine's runner does it
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        wrapper.update_params(model(torch.randn(2, 3, 24, 24, generator=generator)))


def assert_resumes(theirs, ours, paramwise_cfg, constructor):
    """Both go on alike from what ``theirs`` saved after some steps."""
    their_wrapper = build(theirs, paramwise_cfg, constructor)
    steps(theirs, their_wrapper, 2, seed=1)
    saved = copy.deepcopy(their_wrapper.state_dict())
    our_wrapper = build(ours, paramwise_cfg, constructor)
    ours.load_state_dict(theirs.state_dict())
    our_wrapper.load_state_dict(saved)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    steps(theirs, their_wrapper, 2, seed=2)
    steps(ours, our_wrapper, 2, seed=2)
    found = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    trained = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert all(torch.equal(found[name], before[name]) == (name not in trained) for name in found)


@pytest.mark.parametrize(
    ("package", "paramwise"), [*(("mmseg", name) for name in PARAMWISE), ("mmdet", "official")]
)
@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2])
def test_stock_runs_go_on(package, frozen_stages, paramwise):
    options = {"frozen_stages": frozen_stages}
    theirs, ours = Model(stock(package), **options), Model(SwinBackbone, **options)
    assert_resumes(theirs, ours, PARAMWISE[paramwise], DEFAULT)


@pytest.mark.parametrize(
    "constructor",
    ["MergedGroupsOptimWrapperConstructor", "mmseg.ForceDefaultOptimWrapperConstructor"],
)
def test_stock_runs_go_on_with_other_constructors(constructor):
    if constructor.startswith("mmseg"):
        importlib.import_module("mmseg.engine")
    options = {"frozen_stages": 1, "use_abs_pos_embed": True, "pretrain_img_size": 24}
    theirs, ours = Model(stock("mmseg"), **options), Model(SwinBackbone, **options)
    assert_resumes(theirs, ours, PARAMWISE["official"], constructor)


@pytest.mark.parametrize("frozen_stages", [-1, 1])
def test_stock_runs_go_on_without_the_stages_past_the_last_map(frozen_stages):
    """Stock runs these for nothing, and its optimizer has groups for them."""
    options = {"frozen_stages": frozen_stages, "out_indices": (0,)}
    theirs, ours = Model(stock("mmseg"), **options), Model(SwinBackbone, **options)
    assert_resumes(theirs, ours, PARAMWISE["official"], DEFAULT)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("constructor", [DEFAULT, LAYER_DECAY])
def test_groups_do_not_depend_on_what_is_frozen(constructor, version):
    """So a run goes on with more, or fewer, stages that are trained."""
    paramwise = {"layer_decay_rate": 0.8} if constructor == LAYER_DECAY else {}
    paramwise |= PARAMWISE["by kind"]
    groups = []
    for frozen_stages in (-1, 0, 1, 2):
        model = Model(SwinBackbone, frozen_stages=frozen_stages, version=version)
        names = {id(p): name for name, p in model.named_parameters()}
        optimizer = build(model, paramwise, constructor).optimizer
        groups.append(
            [
                {**group, "params": [names[id(p)] for p in group["params"]]}
                for group in optimizer.param_groups
            ]
        )
        frozen = set(map(id, model.backbone.frozen_parameters()))
        assert all(p.requires_grad != (id(p) in frozen) for p in model.parameters())
        assert bool(frozen) == (frozen_stages >= 0)
    assert all(other == groups[0] for other in groups)
    few, all_of_it = (Model(SwinBackbone, frozen_stages=f, version=version) for f in (2, -1))
    wrapper = build(few, paramwise, constructor)
    steps(few, wrapper, 2, seed=1)
    more = build(all_of_it, paramwise, constructor)
    more.load_state_dict(wrapper.state_dict())
    all_of_it.load_state_dict(few.state_dict())
    steps(all_of_it, more, 2, seed=2)
    changed = [
        not torch.equal(a, b) for a, b in zip(few.parameters(), all_of_it.parameters(), strict=True)
    ]
    assert all(changed)


def test_parameters_that_others_freeze_are_left_out():
    """Those of a config's ``norm_cfg``, or of a user, as in mmengine."""
    model = Model(SwinBackbone, frozen_stages=1, norm_cfg={"type": "LN", "requires_grad": False})
    model.head.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    held = {
        id(p)
        for group in build(model, PARAMWISE["by kind"]).optimizer.param_groups
        for p in group["params"]
    }
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    left_out = {name for name, p in model.named_parameters() if id(p) not in held}
    assert left_out == {name for name in before if "norm" in name or name.startswith("head")}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_keys_by_mmsegs_names_set_the_same_parameters(version):
    """V2's are mmpretrain's."""
    model = Model(SwinBackbone, version=version)
    paramwise = {"custom_keys": {"w_msa": {"lr_mult": 0.5}, "ffn.layers.1": {"lr_mult": 3.0}}}
    given = copy.deepcopy(paramwise)
    names = {id(p): name for name, p in model.named_parameters()}
    wrapper = build_optim_wrapper(
        model, {"optimizer": {"type": "SGD", "lr": 1.0}, "paramwise_cfg": paramwise}
    )
    assert paramwise == given
    rates = {names[id(g["params"][0])]: g["lr"] for g in wrapper.optimizer.param_groups}
    for name, rate in rates.items():
        assert rate == (0.5 if ".attn." in name else 3.0 if ".mlp.fc2." in name else 1.0), name


def test_the_longest_key_counts_by_either_name():
    keys = {"attn": 1, "w_msa.qkv": 2, "attn.qkv.bias": 3, "backbone": 4}
    aliases = {f"backbone.attn.qkv.{p}": f"backbone.attn.w_msa.qkv.{p}" for p in ("weight", "bias")}
    found = with_aliases(keys, aliases)
    assert found == {**keys, "backbone.attn.qkv.weight": 2}


def warnings_of(model, keys):
    records = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = records.append
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        build(model, {"custom_keys": keys})
    finally:
        logger.removeHandler(handler)
    return [r.getMessage() for r in records if "custom_keys" in r.getMessage()]


def test_keys_without_effect_are_named():
    keys = dict.fromkeys(("w_msa", "mlp", "absolute_pos_embed", "layers.0.blocks"), NO_DECAY)
    (warning,) = warnings_of(Model(SwinBackbone), keys)
    assert "'layers.0.blocks' is part of no parameter's name" in warning
    assert not warnings_of(nn.Sequential(nn.Linear(2, 2)), keys)  # none of our business


def test_installing_twice_changes_nothing():
    from mmengine.optim import DefaultOptimWrapperConstructor

    before = DefaultOptimWrapperConstructor.__call__
    install_stock_groups()
    assert DefaultOptimWrapperConstructor.__call__ is before
