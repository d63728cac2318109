"""What torch does not document: each interface missing, or answering otherwise, in turn."""

import importlib.util

import pytest
import torch
from helpers import hooks_that_come_later
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from swin_backbone.ops import torch_internals
from swin_backbone.ops.torch_internals import choosing, module_contents

MODES = "torch.utils._python_dispatch._get_current_dispatch_mode_stack"
STACK = "torch._C._len_torch_dispatch_stack"
TRANSFORM = "torch._C._functorch.peek_interpreter_stack"
LEVEL = "torch.autograd.forward_ad._current_level"
MODULE = "torch.nn.modules.module"


def wrong(*args, **kwargs):
    """Answers any question, with something that it cannot be."""
    return "wrong"


@pytest.fixture
def without(monkeypatch):
    """Makes one of the modules again where torch has other things under some names."""

    def load(module, names=None, instead=None):
        find = choosing.find

        def find_another(name):
            return instead if names is None or name in names else find(name)

        monkeypatch.setattr(choosing, "FALLBACKS", {})
        spec = importlib.util.find_spec(f"{torch_internals.__name__}.{module}")
        fresh = importlib.util.module_from_spec(spec)
        with monkeypatch.context() as patch:
            patch.setattr(choosing, "find", find_another)
            spec.loader.exec_module(fresh)
            if module == "optimizers":  # these two choose at the first call
                fresh._collect()
            if module == "cpu_operators":
                scores = torch.zeros(1, 1)
                fresh.softmax_backward_in_place(scores, fresh.softmax_in_place(scores))
                for dtype in (torch.float32, torch.bfloat16):
                    fresh.has_onednn_linear(dtype)
        return fresh, choosing.FALLBACKS

    return load


ABSENT = pytest.mark.parametrize("instead", [None, wrong], ids=["missing", "wrong"])


def test_here_nothing_is_missing():
    assert choosing.is_tested()
    for name in ("watchers", "cpu_operators", "tensor_views", "module_contents"):
        __import__(f"{torch_internals.__name__}.{name}")
    assert torch_internals.FALLBACKS == {}
    assert "none" in torch_internals.describe()


@pytest.mark.parametrize("name", ["torch", "torch.nn.Linear", "torch.autograd.forward_ad"])
def test_what_is_there_is_found(name):
    assert choosing.find(name) is not None


@pytest.mark.parametrize("name", ["torch.nothing", "nothing", "torch.nn.Linear.nothing.more"])
def test_what_is_not_there_is_not_found(name):
    assert choosing.find(name) is None


@pytest.mark.parametrize(
    ("version", "answer"), [("2.4.0", "there"), ("2.14.9+cu1", "there"), ("2.3.1", "public"),
                            ("2.15.0a0", "public"), ("3.0", "public")]
)  # fmt: skip
def test_the_version_decides_about_what_cannot_be_tried(monkeypatch, version, answer):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "there", "there", raising=False)
    monkeypatch.setattr(choosing, "FALLBACKS", {})
    assert choosing.choose("torch.there", lambda found: None, "public") == answer
    assert ("torch.there" in choosing.FALLBACKS) == (answer == "public")
    # What can be tried is taken with any version, and not taken where it is wrong.
    assert choosing.choose("torch.there", lambda found: True, "public") == "there"
    assert choosing.choose("torch.there", lambda found: False, "public") == "public"
    assert choosing.choose("torch.there", lambda found: 1 / 0, "public") == "public"
    assert "ZeroDivisionError" in choosing.FALLBACKS["torch.there"]


def test_checks_see_nothing_of_what_the_caller_has_on():
    seen = []

    def check(found):
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return True

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), FlopCounterMode(display=False):
        choosing.choose("torch.nn", check, None)
    assert seen == [(True, False)]


def answers(watchers):
    """What is under way, by these functions."""
    return {
        "mode": bool(watchers.count_dispatch_modes()),
        "counter": watchers.counts_flops(),
        "transform": watchers.innermost_transform() is not None,
        "forward": watchers.has_forward_derivatives(),
    }


def situations():
    """Each situation, the answers in it, as ``ask`` gives them."""

    def plain(ask):
        return ask()

    def counter(ask):
        with FlopCounterMode(display=False):
            return ask()

    def transform(ask):
        found = []
        torch.func.grad(lambda x: (found.append(ask()), x.sum())[1])(torch.ones(2))
        return found[0]

    def forward(ask):
        with forward_ad.dual_level():
            return ask()

    return {"": plain, "mode counter": counter, "transform": transform, "forward": forward}


@pytest.mark.parametrize("situation", situations())
@pytest.mark.parametrize("name", [None, STACK, MODES, TRANSFORM, LEVEL])
@ABSENT
def test_whoever_watches_is_seen(without, name, situation, instead):
    watchers, fallbacks = without("watchers", {name}, instead)
    assert set(fallbacks) == ({name} - {None})
    found = situations()[situation](lambda: answers(watchers))
    really = {key: key in situation.split() for key in found}
    assert all(found[key] for key, is_so in really.items() if is_so)
    # Where it cannot be told, somebody watches; all else is as it is.
    unknown = {STACK: {"mode"}, TRANSFORM: {"transform"}}.get(name, set())
    assert all(found[key] == is_so for key, is_so in really.items() if key not in unknown)


@ABSENT
@pytest.mark.parametrize("name", ["torch._utils._unflatten_dense_tensors", "torch._foreach_copy_"])
def test_pieces_of_a_vector(without, name, instead):
    tensors, fallbacks = without("tensor_views", {name}, instead)
    assert set(fallbacks) == {name}
    sources = [torch.randn(3, 4), torch.randn(1), torch.randn(2, 0), torch.randn(4, 2).t()]
    flat = torch.zeros(sum(map(torch.numel, sources)), dtype=torch.float64)
    views = tensors.views_like(flat, sources)
    tensors.copy_all(views, sources)
    assert [view.shape for view in views] == [source.shape for source in sources]
    assert torch.equal(flat, torch.cat([source.reshape(-1) for source in sources]).double())


CPU_NAMES = (
    "torch.softmax",
    "torch._softmax_backward_data",
    "torch.ops.mkldnn._linear_pointwise",
    "torch.ops.mkldnn._is_mkldnn_bf16_supported",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("missing", [(), CPU_NAMES])
def test_softmax_in_place(without, missing, dtype):
    operators, fallbacks = without("cpu_operators", missing)
    assert set(fallbacks) == set(missing)
    scores, gradient = torch.randn(2, 5, 7, dtype=dtype), torch.randn(2, 5, 7, dtype=dtype)
    exact = scores.double().clone().requires_grad_()
    weights = exact.softmax(-1)
    (wanted,) = torch.autograd.grad(weights, exact, gradient.double())
    assert operators.softmax_in_place(scores) is scores
    eps = 4 * torch.finfo(dtype).eps  # numbers of about 1, rounded a few times
    torch.testing.assert_close(scores.double(), weights.detach(), rtol=eps, atol=eps)
    assert operators.softmax_backward_in_place(gradient, scores) is gradient
    torch.testing.assert_close(gradient.double(), wanted, rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize("name", CPU_NAMES[2:])
def test_no_linear_of_onednn_that_is_not_there(without, name):
    operators, _ = without("cpu_operators", {name})
    assert not operators.has_onednn_linear(torch.bfloat16)
    if name == CPU_NAMES[2]:
        assert not operators.has_onednn_linear(torch.float32)


def test_a_linear_of_onednn_that_computes_otherwise_is_not_taken(without, monkeypatch):
    operators, _ = without("cpu_operators", ())
    if not operators.has_onednn_linear(torch.float32):
        pytest.skip("torch was built without oneDNN")
    operators.has_onednn_linear.cache_clear()
    monkeypatch.setattr(operators, "onednn_linear", lambda x, weight, *_, **__: x @ weight.t() + 1)
    assert not operators.has_onednn_linear(torch.float32)


def reach(name):
    return f"{MODULE}.{name}"


@pytest.mark.parametrize("missing", [(), (reach("Module.__init__"),)])
def test_what_a_module_holds(without, missing):
    modules, fallbacks = without("module_contents", missing)
    assert set(fallbacks) == set(missing)
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 3))
    assert modules.children(model)["1"] is model[1]
    assert modules.children(model).get("2") is None
    for layer in model:
        own = modules.parameters(layer)
        assert own["weight"] is layer.weight
        assert own["bias"] is layer.bias
        assert "weight" in own
        assert own.get("table") is None
    model[0].weight = nn.Parameter(torch.zeros(3, 2))
    assert modules.parameters(model[0])["weight"] is model[0].weight


def touched():
    """Modules whose call is not, or not only, one of their class's forward."""
    ways = ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")
    for way in ways:
        layer = nn.Linear(2, 2)
        getattr(layer, f"register_{way}")(lambda *_: None)
        yield layer
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x
    yield layer
    yield parametrize.register_parametrization(nn.Linear(2, 2), "weight", nn.Identity())
    yield type("Adapter", (nn.Linear,), {})(2, 2)


@pytest.mark.parametrize("missing", [(), (reach("Module.__call__"),)])
def test_which_modules_are_themselves(without, missing):
    modules, _ = without("module_contents", missing)
    assert modules.is_itself(nn.Linear(2, 2), nn.Linear) == (not missing)
    assert not any(modules.is_itself(layer, nn.Linear) for layer in touched())


def give_a_forward(layer):
    layer.forward = lambda x: x


#: Hooks of all modules are not among them: torch.compile's graphs do without later ones.
LATER = {
    "own forward": give_a_forward,
    "compiled": lambda layer: layer.compile(),
    **{
        f"{way} hook": lambda layer, way=way: getattr(layer, f"register_{way}_hook")(
            lambda *_: None
        )
        for way in ("forward", "forward_pre", "full_backward", "full_backward_pre")
    },
}


@pytest.mark.parametrize("change", LATER.values(), ids=LATER)
def test_what_comes_to_a_module_later_makes_a_graph_anew(change):
    """A graph that took a layer's parameters asks again once it is more than they are."""
    torch._dynamo.reset()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return x + module_contents.is_bare(self.layer, nn.Linear)

    model, x = Model(), torch.zeros(1)
    compiled = torch.compile(model, backend="eager")
    with hooks_that_come_later.seen():
        assert compiled(x) == 1
        change(model.layer)
        assert compiled(x) == model(x) == 0


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "backward", "backward_pre"])
@ABSENT
def test_hooks_of_all_modules_that_are_not_known_may_be_there(without, kind, instead):
    name = reach(f"_global_{kind}_hooks")
    modules, fallbacks = without("module_contents", {name}, instead)
    assert set(fallbacks) == {name}
    assert modules.is_itself(nn.Linear(2, 2), nn.Linear)
    assert not modules.is_bare(nn.Linear(2, 2), nn.Linear)


def test_hooks_of_all_modules_are_seen(without):
    modules, _ = without("module_contents", ())
    layer = nn.Linear(2, 2)
    assert modules.is_bare(layer, nn.Linear)
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
    ):
        handle = register(lambda *_: None)
        assert not modules.is_bare(layer, nn.Linear)
        handle.remove()
    assert modules.is_bare(layer, nn.Linear)


@pytest.mark.parametrize("is_old", [False, True], ids=["public", "torch 2.4"])
def test_a_hook_before_loading(without, monkeypatch, is_old):
    modules, _ = without("module_contents", ())
    if is_old:
        monkeypatch.delattr(nn.Module, "register_load_state_dict_pre_hook", raising=False)
    layer, seen = nn.Linear(1, 1), []
    modules.before_loading(layer, lambda module, state, prefix, *_: seen.append((module, prefix)))
    model = nn.Sequential(layer)
    model.load_state_dict(model.state_dict())
    assert seen == [(layer, "0.")]


def test_a_torch_that_cannot_export_says_so(without):
    exporting, _ = without("packaging", ())
    exporting.find = lambda name: None
    with pytest.raises(RuntimeError, match=r"export needs torch 2\.9"):
        exporting.size_one_is_ordinary()
    for call in (exporting.load_package, lambda path: exporting.compile_package(None, path, {})):
        with pytest.raises(RuntimeError, match=r"AOTInductor need.*'torch-export'"):
            call("x.pt2")


def test_names_inside_wrappers():
    from swin_backbone.ops.torch_internals.class_names import unwrapped_name

    wrapped = "_fsdp_wrapped_module.stages.0._checkpoint_wrapped_module.attn._orig_mod.qkv.weight"
    assert unwrapped_name(wrapped) == "stages.0.attn.qkv.weight"
    assert unwrapped_name("stages.0.attn.qkv.weight") == "stages.0.attn.qkv.weight"


def test_a_scaler_looks_after_optimizers_that_are_not_fused():
    from swin_backbone.ops.torch_internals.optimizers import leave_scaling_to_the_scaler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    before = dict(vars(optimizer))
    leave_scaling_to_the_scaler(optimizer)  # has no such mark: nothing happens
    assert vars(optimizer).keys() == before.keys()
    fused = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], fused=True)
    leave_scaling_to_the_scaler(fused)
    parameter = fused.param_groups[0]["params"][0]
    parameter.grad = torch.ones(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(1))
    seen = []
    fused.register_step_pre_hook(lambda *_: seen.append(parameter.grad.item()))
    scaler.step(fused)
    assert seen == [0.25]  # unscaled by the scaler, before the step


@ABSENT
def test_optimizers_step_on_whole_tensors(without, instead):
    optimizers, fallbacks = without("optimizers", instead=instead)
    parameter = torch.ones(2, requires_grad=True)
    parameter.grad = torch.ones(2)
    optimizer = torch.optim.AdamW([parameter], lr=0.5)
    optimizers.step_on_parts(optimizer, lambda tensor: 1 / 0)
    optimizer.step()
    assert parameter.ne(1).all()
    assert "torch.optim.AdamW._init_group" in fallbacks
