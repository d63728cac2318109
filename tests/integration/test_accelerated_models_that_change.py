"""What becomes of an accelerated model when its parts are changed, copied or pickled.

All is compared with the untouched library, whose same parts are changed, in float64: sums in
another order differ by less than 1e-10.
"""

import copy
import functools
import importlib
import pickle
import subprocess
import sys

import pytest
import torch
from helpers.errors import relative_error
from helpers.models_with_swin import IMAGE, alone, make_case
from helpers.peers import PAIRS, PEERS, make_theirs, randomise
from torch import nn
from torch.nn.utils import parametrize

import swin_backbone
from swin_backbone.ops import dispatch

TOLERANCE = 1e-10


@functools.cache
def untouched(name, version):
    return make_theirs(name, version).double()


def pair(name, version):
    """The model as it is, and an accelerated copy."""
    model = copy.deepcopy(untouched(name, version))
    fast = copy.deepcopy(model)
    swin_backbone.accelerate(fast)
    return model, fast


def blocks(model):
    """Those that an accelerated copy of the model computes otherwise."""
    report = swin_backbone.accelerate(copy.deepcopy(model))
    rows = [row for row in report.replaced if row.what.startswith("windows")]
    return [model.get_submodule(name) for row in rows for name in row.modules]


def assert_same(name, model, fast):
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        maps, expected = (PEERS[name].maps(one, images) for one in (fast, model))
    for a, b in zip(maps, expected, strict=True):
        assert relative_error(a, b) <= TOLERANCE
    return expected


def operations(name, model):
    """Names of the operations of this project that run."""
    decisions = []
    with torch.no_grad(), dispatch.listening(decisions.append):
        PEERS[name].maps(model, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    return [decision.operation for decision in decisions]


def other_forward(kind):
    """Another ``forward`` for a class of modules."""
    stock = kind.forward

    def forward(self, *arguments, **options):
        found = stock(self, *arguments, **options)
        maps, *rest = found if isinstance(found, tuple) else (found,)
        maps = maps + 0.3 * maps.roll(1, -1)  # a norm behind it does not take that back
        return (maps, *rest) if isinstance(found, tuple) else maps

    return forward


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_any_part_of_a_block_may_get_another_class(name, version):
    """The block itself among them."""
    model, fast = pair(name, version)
    block = blocks(model)[1]
    place = next(key for key, module in model.named_modules() if module is block)
    before, changes = assert_same(name, model, fast), 0
    for part, module in [*block.named_modules()]:
        both = [one.get_submodule(f"{place}.{part}".rstrip(".")) for one in (model, fast)]
        kind = type(module)
        other = type(f"Other{kind.__name__}", (kind,), {"forward": other_forward(kind)})
        for one in both:
            one.__class__ = other
        changes += not torch.equal(assert_same(name, model, fast)[-1], before[-1])
        for one in both:
            one.__class__ = kind
    assert changes >= 5
    assert "attention" in operations(name, fast)


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_a_method_of_a_class_may_be_replaced(monkeypatch, name, version):
    """Of models that were accelerated before, and after others of their kind were."""
    model, fast = pair(name, version)
    parts = [module for block in blocks(model) for module in block.modules()]
    kinds = {type(part) for part in parts if [*part.children()]}
    for kind in kinds - {nn.Sequential}:
        monkeypatch.setattr(kind, "forward", other_forward(kind))
        assert_same(name, model, fast)
        later = copy.deepcopy(model)
        swin_backbone.accelerate(later)
        assert_same(name, model, later)
        monkeypatch.undo()
    assert "attention" in operations(name, fast)


class Larger(nn.Module):
    def forward(self, tensor):
        return 1.1 * tensor


WAYS = {
    "parametrised": lambda module, name: parametrize.register_parametrization(
        module, name, Larger()
    ),
    "as a tensor": lambda module, name: put(module, name, setattr),
    "as a buffer": lambda module, name: put(module, name, nn.Module.register_buffer),
}


def put(module, name, how):
    """A parameter becomes a tensor that is kept elsewhere, as in replicas and flat shards."""
    tensor = 1.1 * getattr(module, name).detach()
    delattr(module, name)
    how(module, name, tensor)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_any_parameter_of_a_block_may_be_kept_elsewhere(name, version, way, first):
    """Before ``accelerate``, or after it."""
    model = copy.deepcopy(untouched(name, version))
    fast = copy.deepcopy(model)
    if not first:
        swin_backbone.accelerate(fast)
    names = [
        (key, own)
        for key, module in blocks(model)[0].named_modules()
        for own, tensor in module.named_parameters(recurse=False)
    ]
    places = [
        f"{stem}.{key}".rstrip(".")
        for block in blocks(model)
        for stem in [next(k for k, m in model.named_modules() if m is block)]
        for key in [*dict(names)]
    ]
    for one in (model, fast):
        for place in places:
            module = one.get_submodule(place)
            for own in [*dict(module.named_parameters(recurse=False))]:
                WAYS[way](module, own)
    if first:
        swin_backbone.accelerate(fast)
    assert_same(name, model, fast)


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_a_pickled_model_is_the_untouched_one(name, version):
    """And can be accelerated again."""
    if (name, version) == ("transformers", "v1"):
        pytest.skip("transformers' own cannot be pickled")
    model, fast = pair(name, version)
    again = pickle.loads(pickle.dumps(fast))
    assert_same(name, model, again)
    assert not operations(name, again)
    swin_backbone.accelerate(again)
    assert_same(name, model, again)
    assert operations(name, again) == operations(name, fast)


UNPICKLE = """
import sys, torch

class Nothing:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "swin_backbone":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
model, images, expected = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad():
    found = model(images)
torch.testing.assert_close(getattr(found, "last_hidden_state", found), expected)
"""


@pytest.mark.parametrize("kind", ["torchvision", "Swin", "Swinv2"])
def test_a_pickled_model_does_not_need_this_package(kind, tmp_path):
    """transformers' V1 has methods that are replaced by functions of other names."""
    if kind == "torchvision":
        model, _ = make_case(kind)
    else:
        model = alone(f"{kind}Model", kind).eval()
        randomise(model)
    images, path = torch.randn(1, 3, IMAGE, IMAGE), tmp_path / "model.pt"
    with torch.no_grad():
        found = copy.deepcopy(model)(images)
    swin_backbone.accelerate(model)
    torch.save((model, images, getattr(found, "last_hidden_state", found)), path)
    done = subprocess.run(
        [sys.executable, "-c", UNPICKLE, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_transforms_of_torch_func_see_plain_operators(name, version):
    """Of maps whose windows are filled up, too."""
    model = make_theirs(name, version, image_size=(72, 72)).double()
    fast = copy.deepcopy(model)
    swin_backbone.accelerate(fast)
    images = torch.randn(2, 3, 72, 72, dtype=torch.float64)

    def total(one, x):
        return PEERS[name].maps(one, x)[-1].square().sum()

    for transform in (
        lambda run: torch.func.grad(run)(images),
        lambda run: torch.func.vmap(lambda x: run(x[None]))(images),
        lambda run: torch.func.jvp(run, (images,), (torch.ones_like(images),))[1],
    ):
        found = transform(functools.partial(total, fast))
        try:
            expected = transform(functools.partial(total, model))
        except RuntimeError:  # torch has no such derivative of its own attention
            continue
        assert relative_error(found, expected) <= TOLERANCE


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_on_the_meta_device_shapes_are_the_librarys(name, version):
    model, fast = (one.to("meta") for one in pair(name, version))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, device="meta")
    maps, expected = (PEERS[name].maps(one, images) for one in (fast, model))
    assert [m.shape for m in maps] == [m.shape for m in expected]


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_replicas_compute_with_their_own_parameters(monkeypatch, name, version):
    """As ``nn.DataParallel`` makes them, one for each GPU: here the parameters of the second are
    others, so that it is seen whose they are."""
    replicate = importlib.import_module("torch.nn.parallel.replicate")

    def broadcast(tensors, devices, detach=False):
        return [
            [factor * tensor if tensor.requires_grad else tensor for tensor in tensors]
            for factor in (1.0, 1.25)
        ]

    monkeypatch.setattr(replicate, "_broadcast_coalesced_reshape", broadcast)
    model, fast = pair(name, version)
    for one in (model, fast):
        one.eval()
    model, fast = (replicate.replicate(one, [0, 1]) for one in (model, fast))
    for expected, found in zip(model, fast, strict=True):
        assert_same(name, expected, found)
