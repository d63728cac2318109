"""Whatever is done to a module has the effect that it has where every module is called.

Each kind of intervention is made on each module of a small V1 and V2, one at a time: fast ways
stand aside for a whole block or layer, and have to notice it by that one module. What is right is
written out in ``helpers/by_modules.py``.
"""

import copy

import pytest
import torch
from helpers.by_modules import calling_modules
from helpers.peers import import_peft
from torch import nn
from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize

from swin_backbone import SwinBackbone
from swin_backbone.model import DropPath

#: Norm of a difference over that of what is right: sums in other orders, through two blocks. What
#: is zero but for rounding, such as the gradient of the keys' bias, has no relative error.
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-3}
LEAST_NORM = 1e-2
IMAGES = torch.randn(2, 3, 14, 22, generator=torch.Generator().manual_seed(0))


def make(version, **options):
    """Two stages of one block: windows that do not tile the maps, and all kinds of modules."""
    sizes = {"embed_dims": 8, "depths": (1, 1), "num_heads": (1, 2), "strides": (4, 2)}
    sizes |= {"out_indices": (0, 1), "window_size": 4, "mlp_ratio": 2, "drop_path_rate": 0.0}
    torch.manual_seed(0)
    model = SwinBackbone(**(sizes | {"version": version} | options))
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.double().eval()


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
    images = IMAGES.to(next(model.parameters())).requires_grad_()
    maps = model(images)
    weights = [torch.linspace(-1, 1, features.shape[1]).to(features) for features in maps]
    pairs = zip(maps, weights, strict=True)
    loss = sum((features * weight[:, None, None]).square().sum() for features, weight in pairs)
    loss.backward()
    learned = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    return [*maps, images.grad, *learned]


def perturb(value):
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


def is_close(actual, expected):
    difference = (actual - expected).norm().item()
    return difference <= CLOSE[expected.dtype] * max(expected.norm().item(), LEAST_NORM)


def assert_alike(actual, expected, context):
    assert len(actual) == len(expected), context
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == b.shape, context
        assert is_close(a, b), f"{context}: tensor {index} differs"


def assert_seen(original, intervene, name):
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
@pytest.mark.parametrize(
    ("intervene", "kinds"), CASES, ids=lambda value: getattr(value, "__name__", "")
)
def test_an_intervention_on_any_module_has_its_effect(intervene, kinds, version):
    original = make(version)
    before = run(copy.deepcopy(original))
    names = names_of(original, kinds)
    changed = 0
    for name in names:
        after = assert_seen(original, intervene, name)
        alike = zip(after[:3], before[:3], strict=True)
        changed += not all(is_close(a, b) for a, b in alike)
    assert changed > len(names) // 3  # most have one: a table or a norm may be without parameters


@pytest.mark.parametrize("backend", ["reference", "sdpa", "cpu"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_backend_stands_aside(version, backend):
    original = make(version, backend=backend, depths=(1,), num_heads=(2,), out_indices=(0,))
    for name in names_of(original):
        for intervene in (forward_hook, backward_hook):
            assert_seen(original, intervene, name)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_tokens_that_fill_up_shifted_windows_are_projected_by_what_projects_the_others(version):
    original = make(version, depths=(2,), num_heads=(1,), out_indices=(0,))
    for intervene in EVERY:
        assert_seen(original, intervene, "stages.0.blocks.1.attn.qkv")


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_hooks_of_all_modules_have_their_effect(version, kind):
    original = make(version)
    register = getattr(torch_module, f"register_module_{kind}_hook")
    for wanted in {type(module) for module in original.modules()} - {nn.ModuleList}:
        results, calls = [], []

        def hook(module, first, second=None):
            calls[-1].append(type(module))  # noqa: B023
            if type(module) is wanted:  # noqa: B023
                value = perturb(first if second is None or kind == "full_backward" else second)
                return (value[0], *first[1:]) if kind == "forward_pre" else value
            return None

        for by_modules in (False, True):
            calls.append([])
            handle = register(hook)
            try:
                if by_modules:
                    with calling_modules():
                        results.append(run(original))
                else:
                    results.append(run(original))
            finally:
                handle.remove()
        assert_alike(*results, f"global {kind} hook on {wanted.__name__}")
        assert sorted(map(str, calls[0])) == sorted(map(str, calls[1]))
    assert run(original)[0].isfinite().all()  # and all is as before


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_adapters_have_their_effect(version):
    peft = import_peft()
    original = make(version)

    def adapt(model, name):
        config = peft.LoraConfig(r=2, target_modules=[name], init_lora_weights=False)
        torch.manual_seed(2)
        peft.inject_adapter_in_model(config, model)

    before = run(copy.deepcopy(original))[1]
    for name in names_of(original, (nn.Linear, nn.Conv2d)):
        after = assert_seen(original, adapt, name)[1]
        assert not is_close(after, before), name


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_quantised_layers_compute(version):
    original = make(version).float()
    layers = names_of(original, nn.Linear)
    with torch.no_grad():
        before = original(IMAGES)
        for chosen in [layers, *([name] for name in layers)]:
            quantised = quantize_dynamic(original, dict.fromkeys(chosen, default_dynamic_qconfig))
            actual = quantised(IMAGES)
            with calling_modules():
                assert_alike(actual, quantised(IMAGES), chosen)
            assert not all(map(torch.equal, actual, before)), chosen


class Negated(torch.Tensor):
    """More than its numbers, as quantised tensors are: functions see their negative."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        def numbers(value):
            return -value.as_subclass(torch.Tensor) if isinstance(value, Negated) else value

        with torch._C.DisableTorchFunctionSubclass():
            options = {key: numbers(value) for key, value in (options or {}).items()}
            return function(*map(numbers, arguments), **options)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_parameters_that_are_more_than_tensors_are_not_taken_for_such(version):
    original = make(version).float()
    with torch.no_grad():
        before = original(IMAGES)
        for name in names_of(original, (nn.Linear, nn.Conv2d, nn.LayerNorm)):
            layer = original.get_submodule(name)
            weight = layer._parameters.pop("weight")
            layer.weight = weight.detach().as_subclass(Negated)
            actual = original(IMAGES)
            with calling_modules():
                assert_alike(actual, original(IMAGES), name)
            assert not all(map(torch.equal, actual, before)), name
            del layer.weight
            layer.weight = weight


OTHERS = {
    "projection.stride": lambda m: m.patch_embed.projection.__setattr__("stride", (2, 2)),
    "projection.bias": lambda m: m.patch_embed.projection.__setattr__("bias", None),
    "reduction.bias": lambda m: m.stages[0].downsample.reduction.__setattr__(
        "bias", nn.Parameter(torch.ones(16).double())
    ),
    "qkv.bias": lambda m: (
        m.stages[0]
        .blocks[0]
        .attn.qkv.__setattr__("bias", nn.Parameter(torch.linspace(-1, 1, 24).double()))
    ),
    "act.approximate": lambda m: m.stages[0].blocks[0].mlp.act.__setattr__("approximate", "tanh"),
    "norm.eps": lambda m: m.stages[0].blocks[0].norm1.__setattr__("eps", 0.5),
}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_settings_of_a_layer_have_their_effect(change, version):
    def alter(model, name):
        change(model)

    assert_seen(make(version), alter, "")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_packed_images_see_hooks_of_every_module(version):
    """Each image gives what it gives by itself, by modules; hooks here treat tokens alone."""
    original = make(version)
    images = [IMAGES[0].double(), IMAGES[1, :, :9, :13].double()]
    for name in names_of(original):
        model = copy.deepcopy(original)
        calls = forward_hook(model, name)
        with torch.no_grad():
            packed = model.forward_packed(images)
            count, expected = len(calls), []
            with calling_modules():
                expected = [model(image[None]) for image in images]
        assert count > 0, name
        for level, maps in enumerate(packed):
            for own, alone in zip(maps, expected, strict=True):
                assert_alike([own], [alone[level][0]], name)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_kernels_stand_aside(version):
    """The same in Triton's interpreter, for what a block has: sizes are those of its kernels."""
    pytest.importorskip("triton", reason="triton is not installed")
    options = {"backend": "triton", "embed_dims": 32, "num_heads": (1,), "depths": (1,)}
    original = make(version, out_indices=(0,), mlp_ratio=4, **options).float()
    images = IMAGES[:1, :, :10, :14]
    if torch.cuda.is_available():
        original, images = original.cuda(), images.cuda()
    with torch.no_grad():
        for name in names_of(original.stages[0].blocks[0]):
            model = copy.deepcopy(original)
            calls = forward_hook(model, f"stages.0.blocks.0.{name}")
            actual, count = model(images), len(calls)
            with calling_modules():
                assert_alike(actual, model(images), name)
            assert len(calls) == 2 * count > 0, name
