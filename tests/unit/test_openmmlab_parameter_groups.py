"""Parameters with equal settings share a group, and nothing else changes."""

import copy

import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

KEYS = {"norm": {"decay_mult": 0.0}, "last": {"lr_mult": 10.0}}


def model():
    return nn.ModuleDict(
        {
            "first": nn.Linear(3, 4),
            "norm": nn.LayerNorm(4),
            "second": nn.Linear(4, 4),
            "last": nn.Linear(4, 2),
        }
    )


def build(module, constructor):
    config = {
        "constructor": constructor,
        "optimizer": {"type": "AdamW", "lr": 0.1, "weight_decay": 0.5},
        "paramwise_cfg": {"custom_keys": KEYS},
    }
    return build_optim_wrapper(module, config)


def train(module, constructor):
    wrapper = build(module, constructor)
    for _ in range(3):
        x = torch.linspace(-1, 1, 15).reshape(5, 3)
        for layer in module.values():
            x = layer(x)
        wrapper.update_params(x.square().sum())
    return wrapper.optimizer


def test_groups_are_as_many_as_settings_and_steps_are_the_same():
    merged = model()
    separate = copy.deepcopy(merged)
    few = train(merged, "MergedGroupsOptimWrapperConstructor")
    many = train(separate, "DefaultOptimWrapperConstructor")
    assert [len(group["params"]) for group in few.param_groups] == [4, 2, 2]
    assert len(many.param_groups) == 8
    assert [(g["lr"], g["weight_decay"]) for g in few.param_groups] == [
        (0.1, 0.5),
        (0.1, 0.0),
        (1.0, 0.5),
    ]
    for name, parameter in merged.named_parameters():
        # The same formula; only how tensors are batched into one update may differ.
        torch.testing.assert_close(parameter, separate.get_parameter(name), rtol=1e-6, atol=1e-7)
