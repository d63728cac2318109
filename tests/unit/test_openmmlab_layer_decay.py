"""Learning rates per layer, on a segmentor with a Swin backbone."""

import copy

import pytest
import torch
from helpers.tiny_run import BACKBONE, HEAD
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from swin_backbone.openmmlab.layer_decay import layer_index

LR, RATE, DECAY = 0.1, 0.5, 0.05
DEPTHS = (2, 2)
LAYERS = sum(DEPTHS) + 1  # so many times the rate for the embeddings

# Written out: how often the rate goes into the learning rate of each parameter.
TIMES = {
    "backbone.absolute_pos_embed": 5,
    "backbone.patch_embed.projection.weight": 5,
    "backbone.patch_embed.norm.bias": 5,
    "backbone.stages.0.blocks.0.attn.qkv.weight": 4,
    "backbone.stages.0.blocks.1.mlp.fc2.bias": 3,
    "backbone.stages.0.downsample.reduction.weight": 3,
    "backbone.stages.0.downsample.norm.weight": 3,
    "backbone.norm0.weight": 3,
    "backbone.stages.1.blocks.0.norm1.weight": 2,
    "backbone.stages.1.blocks.1.attn.relative_position_bias_table": 1,
    "backbone.norm1.bias": 1,
    "decode_head.conv_seg.weight": 0,
    "decode_head.bottleneck.bn.weight": 0,
}


def segmentor(**options):
    from mmseg.registry import MODELS

    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(
            {
                "type": "EncoderDecoder",
                "backbone": {**BACKBONE, "use_abs_pos_embed": True, **options},
                "decode_head": HEAD,
            }
        )


def build(model, optimizer=(), **paramwise_cfg):
    config = {
        "constructor": "SwinLayerDecayOptimWrapperConstructor",
        "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": DECAY, **dict(optimizer)},
        "paramwise_cfg": {"layer_decay_rate": RATE, **paramwise_cfg},
    }
    with DefaultScope.overwrite_default_scope("mmseg"):
        return build_optim_wrapper(model, config)


def group_of(wrapper, parameter):
    groups = wrapper.optimizer.param_groups
    (group,) = (g for g in groups if any(p is parameter for p in g["params"]))
    return group


@pytest.mark.parametrize(("name", "times"), TIMES.items())
def test_rate_of(name, times):
    model = segmentor()
    group = group_of(build(model), model.get_parameter(name))
    assert group["lr"] == pytest.approx(LR * RATE**times, rel=1e-12)
    assert group["weight_decay"] == DECAY


def test_every_parameter_is_there_once_in_one_group_per_layer():
    model = segmentor()
    groups = build(model).optimizer.param_groups
    assert len(groups) == LAYERS + 1
    given = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(given) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("patch_embed.norm.weight", 0),
        ("stages.0.blocks.1.norm2.bias", 2),
        ("stages.2.blocks.17.attn.proj.weight", 2 + 2 + 18),
        ("stages.2.downsample.reduction.weight", 2 + 2 + 18),
        ("stages.3.blocks.0.attn.qkv.bias", 2 + 2 + 18 + 1),
        ("norm3.weight", 2 + 2 + 18 + 2),
    ],
)
def test_layer_index_in_swin_small(name, index):
    assert layer_index(name, (2, 2, 18, 2)) == index


def test_options_of_the_default_constructor_multiply():
    model = segmentor()
    table = {"relative_position_bias_table": {"lr_mult": 0.2, "decay_mult": 0.0}}
    head = {"decode_head": {"lr_mult": 10.0}}
    wrapper = build(model, norm_decay_mult=0.0, custom_keys={**table, **head})

    def settings(name):
        group = group_of(wrapper, model.get_parameter(name))
        return pytest.approx((group["lr"], group["weight_decay"]))

    block = "backbone.stages.0.blocks.0"
    assert settings(f"{block}.attn.relative_position_bias_table") == (0.2 * LR * RATE**4, 0.0)
    assert settings(f"{block}.norm1.weight") == (LR * RATE**4, 0.0)
    assert settings(f"{block}.attn.qkv.weight") == (LR * RATE**4, DECAY)
    assert settings("decode_head.conv_seg.weight") == (10 * LR, DECAY)


def test_frozen_parameters_have_groups_and_stay_as_they_are():
    """So that groups are those of any other ``frozen_stages``."""
    model = segmentor(frozen_stages=1, drop_path_rate=0.0)  # or a block might have no gradient
    wrapper = build(model)
    given = {id(p) for group in wrapper.optimizer.param_groups for p in group["params"]}
    assert given == {id(parameter) for parameter in model.parameters()}
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    step(model.train(), wrapper, torch.randn(2, 3, 32, 32))
    for name, parameter in model.backbone.named_parameters():
        assert torch.equal(parameter, before[name]) == (not parameter.requires_grad), name


def test_rate_1_is_the_default_constructor():
    groups = build(segmentor(), layer_decay_rate=1.0).optimizer.param_groups
    assert [group["lr"] for group in groups] == [LR]


def test_settings_that_are_lists_are_merged():
    keys = {"norm": {"betas": [0.9, 0.99]}}
    groups = build(segmentor(), layer_decay_rate=1, custom_keys=keys).optimizer.param_groups
    assert len(groups) == 2
    assert [0.9, 0.99] in [group["betas"] for group in groups]


def step(model, wrapper, images):
    wrapper.update_params(sum(feature.square().mean() for feature in model.backbone(images)))


def test_state_is_resumed():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    model = segmentor(drop_rate=0.0, drop_path_rate=0.0)
    wrapper = build(model)
    before = copy.deepcopy(model.state_dict())
    step(model, wrapper, images)
    name = "backbone.stages.0.blocks.0.attn.qkv.weight"
    assert not torch.equal(before[name], model.state_dict()[name])

    resumed = segmentor(drop_rate=0.0, drop_path_rate=0.0)
    resumed_wrapper = build(resumed)
    resumed.load_state_dict(model.state_dict())
    resumed_wrapper.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    step(model, wrapper, images)
    step(resumed, resumed_wrapper, images)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


@pytest.mark.parametrize("rate", [None, 0, -0.1, 1.01, "0.9"])
def test_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match=r"layer_decay_rate must lie in \(0, 1\], got"):
        build(segmentor(), layer_decay_rate=rate)


def test_a_model_without_the_backbone():
    with pytest.raises(ValueError, match="needs a SwinBackbone, and the model has none"):
        build(torch.nn.Linear(2, 1))


def test_an_optimizer_without_lr():
    with pytest.raises(ValueError, match=r"optimizer\.lr"):
        build(segmentor(), optimizer={"lr": None})
