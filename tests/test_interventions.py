"""Whatever is done to a module has the effect that it has where every module is called.

Each kind of intervention is made on each module of a small V1 and V2, one at a time: fast ways
stand aside for a whole block or layer, and have to notice it by that one module. What is right is
spelt out in ``helpers/by_modules.py``.
"""

import contextlib
import copy
import zlib

import pytest
import torch
from helpers.by_modules import calling_modules
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize

from swin_backbone import SwinBackbone
from swin_backbone.layers import DropPath

# Sums of float32 in other orders, through two blocks.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
IMAGES = torch.randn(2, 3, 22, 30, generator=torch.Generator().manual_seed(0))


def make(version, **options):
    """Two stages of one block: windows that do not tile the maps, and all kinds of modules."""
    sizes = {"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2)}
    sizes |= {"out_indices": (0, 1), "window_size": 4, "mlp_ratio": 2, "drop_path_rate": 0.0}
    torch.manual_seed(0)
    model = SwinBackbone(**(sizes | {"version": version} | options))
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def names_of(model, kinds=nn.Module):
    """Modules that are called: lists of modules are not."""
    return [
        name
        for name, module in model.named_modules()
        if name and isinstance(module, kinds) and not isinstance(module, nn.ModuleList)
    ]


def run(model):
    """Maps, and gradients of the images and parameters, in one list."""
    torch.manual_seed(1)
    images = IMAGES.clone().requires_grad_()
    maps = model(images)
    loss = sum((features * torch.linspace(-1, 1, features.shape[1])[:, None, None]).square().mean()
               for features in maps)  # fmt: skip
    loss.backward()
    learned = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    return [*maps, images.grad, *learned]


def perturb(value, seen=()):
    """Something else than ``value``, which may be a tuple: a new one, with gradients."""
    if isinstance(value, (tuple, list)):
        return type(value)(perturb(part) for part in value)
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return 1.5 * value + 0.1
    return value


# Each intervention changes a module, and returns a list to which its calls append something.


def forward_hook(model, name):
    calls = []
    model.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: calls.append(1) or perturb(output)
    )
    return calls


def forward_pre_hook(model, name):
    calls = []
    model.get_submodule(name).register_forward_pre_hook(
        lambda module, inputs: calls.append(1) or (perturb(inputs[0]), *inputs[1:])
    )
    return calls


def backward_hook(model, name):
    calls = []
    model.get_submodule(name).register_full_backward_hook(
        lambda module, grads, outputs: calls.append(1) or perturb(grads)
    )
    return calls


def backward_pre_hook(model, name):
    calls = []
    model.get_submodule(name).register_full_backward_pre_hook(
        lambda module, outputs: calls.append(1) or perturb(outputs)
    )
    return calls


def instance_forward(model, name):
    module, calls = model.get_submodule(name), []
    original = module.forward

    def forward(*inputs, **options):
        calls.append(1)
        return perturb(original(*inputs, **options))

    module.forward = forward
    return calls


def subclass(model, name):
    module, calls = model.get_submodule(name), []

    class Variant(type(module)):
        def forward(self, *inputs, **options):
            calls.append(1)
            return perturb(super().forward(*inputs, **options))

    module.__class__ = Variant
    return calls


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrisation(model, name):
    module = model.get_submodule(name)
    for parameter in list(module._parameters):
        if module._parameters[parameter] is not None:
            parametrize.register_parametrization(module, parameter, Doubled())


def weight_norm(model, name):
    parametrizations.weight_norm(model.get_submodule(name))
    model.get_submodule(name).parametrizations.weight.original0.data.mul_(1.5)


def hooked_weight_norm(model, name):
    torch.nn.utils.weight_norm(model.get_submodule(name))
    model.get_submodule(name).weight_g.data.mul_(1.5)


def dropout_rate(model, name):
    module = model.get_submodule(name).train()
    if isinstance(module, DropPath):
        module.drop_prob = 1.0
    else:
        module.p = 0.5


EVERY = [forward_hook, forward_pre_hook, backward_hook, backward_pre_hook]
EVERY += [instance_forward, subclass]
CASES = [
    *((intervene, nn.Module) for intervene in EVERY),
    (parametrisation, nn.Module),
    (weight_norm, (nn.Linear, nn.Conv2d)),
    (hooked_weight_norm, (nn.Linear, nn.Conv2d)),
    (dropout_rate, (nn.Dropout, DropPath)),
]


def assert_alike(actual, expected, context):
    assert len(actual) == len(expected), context
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, **CLOSE, msg=lambda text: f"{context}: {text}")  # noqa: B023


def assert_seen(original, intervene, name, prepare=lambda model: None):
    """That ``intervene`` has the same effect on a model as where modules are called."""
    models = copy.deepcopy(original), copy.deepcopy(original)
    calls = [intervene(model, name) for model in models]
    results = [run(models[0])]
    with calling_modules():
        results.append(run(models[1]))
    context = f"{intervene.__name__} on {name!r}"
    assert_alike(*results, context)
    if calls[0] is not None:
        assert len(calls[0]) == len(calls[1]) > 0, f"{context}: {list(map(len, calls))} calls"
    return results[0]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(("intervene", "kinds"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_an_intervention_on_any_module_has_its_effect(intervene, kinds, version):
    original = make(version)
    before = run(copy.deepcopy(original))
    names = names_of(original, kinds)
    changed = 0
    for name in names:
        after = assert_seen(original, intervene, name)
        alike = zip(after[:3], before[:3], strict=True)
        changed += not all(torch.allclose(a, b, **CLOSE) for a, b in alike)
    assert changed > len(names) // 3  # most have one: a table or a norm may be without parameters
