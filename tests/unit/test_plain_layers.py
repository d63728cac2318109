"""Blocks compute with their layers' parameters, and see what becomes of layers and parameters."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from swin_backbone import SwinBackbone
from swin_backbone.model import PatchMerging, SwinBlock


def make(**options):
    sizes = {"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2)}
    sizes |= {"out_indices": (0, 1), "window_size": 4}
    model = SwinBackbone(**(sizes | options)).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def by_modules(model, images):
    """The same by the modules themselves: a variant of the attention has none of the short ways."""
    model = copy.deepcopy(model)

    def variant(module):
        module.__class__ = type("Variant", (type(module),), {})

    for module in model.modules():
        if isinstance(module, SwinBlock):
            assert module.branch_parameters() is None or variant(module.attn) is None
            assert module.branch_parameters() is None
    for module in model.modules():
        if isinstance(module, PatchMerging):
            module.reduction.register_forward_hook(lambda *_: None)
    return model(images)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Adapted(nn.Linear):
    """As adapters are: more than the weight it has."""

    def forward(self, x):
        return super().forward(x) + 1.0


def load(model):
    model.load_state_dict({k: v * 1.5 for k, v in model.state_dict().items()}, assign=True)


def replace(model):
    layer = model.stages[0].blocks[0].mlp.fc2
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))


def keep_as_tensors(model):
    """As replicas and flat shards do."""
    for layer in (model.stages[0].blocks[0].attn.qkv, model.stages[0].blocks[1].norm1):
        weight = layer._parameters.pop("weight")
        layer.__dict__["weight"] = 2 * weight.detach()


def adapt(model):
    attn = model.stages[0].blocks[0].attn
    adapted = Adapted(8, 24)
    adapted.load_state_dict(attn.qkv.state_dict())
    attn.qkv = adapted
    adapted = Adapted(32, 16, bias=False)
    adapted.load_state_dict(model.stages[0].downsample.reduction.state_dict())
    model.stages[0].downsample.reduction = adapted


def parametrise(model):
    parametrize.register_parametrization(model.stages[0].blocks[0].attn.proj, "weight", Doubled())
    parametrize.register_parametrization(model.stages[0].blocks[1].norm2, "bias", Doubled())


def prune_layers(model):
    prune.random_unstructured(model.stages[1].blocks[0].mlp.fc1, "weight", amount=0.5)


def hook(model):
    model.stages[0].blocks[1].mlp.fc1.register_forward_hook(lambda layer, inputs, out: out + 1.0)


def activate(model):
    model.stages[0].blocks[0].mlp.act = nn.ReLU()


def normalise(model):
    model.stages[0].blocks[0].norm1 = nn.LayerNorm(8, elementwise_affine=False)
    model.stages[0].downsample.norm = nn.LayerNorm(32, bias=False)


@pytest.mark.parametrize(
    "change",
    [load, replace, keep_as_tensors, adapt, parametrise, prune_layers, hook, activate, normalise],
)
def test_what_is_put_in_place_of_a_layer_or_parameter_is_used(change):
    torch.manual_seed(0)
    model, images = make(), torch.randn(1, 3, 24, 20)
    with torch.no_grad():
        before = model(images)
        change(model)
        after = model(images)
        exact = by_modules(model, images)
    for a, b in zip(after, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # float32 sums in other orders
    assert not torch.allclose(after[-1], before[-1], atol=1e-2)


def test_a_model_may_move_to_another_dtype():
    model, images = make(), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        model(images)
        wide = model.double()(images.double())
    assert all(features.dtype == torch.float64 for features in wide)


def test_plain_blocks_compute_with_parameters():
    blocks = [module for module in make().modules() if isinstance(module, SwinBlock)]
    assert blocks
    assert all(block.branch_parameters() is not None for block in blocks)
