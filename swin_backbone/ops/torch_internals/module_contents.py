"""What a module holds, read past ``nn.Module.__getattr__``, which takes ten times as long.

A backbone asks hundreds of times a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .choosing import choose

_MODULE = "torch.nn.modules.module"


class _ByName(Mapping):
    """The attributes of a module, as the dictionaries of torch's modules have them."""

    def __init__(self, module: nn.Module, found: Mapping):
        self._module, self._found = module, found

    def __getitem__(self, name: str):
        try:
            return getattr(self._module, name)
        except AttributeError:
            raise KeyError(name) from None

    def __iter__(self):
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _children_by_name(module: nn.Module) -> Mapping[str, nn.Module]:
    return _ByName(module, dict(module.named_children()))


def _parameters_by_name(module: nn.Module) -> Mapping[str, Tensor | None]:
    return _ByName(module, dict(module.named_parameters(recurse=False)))


def _holds_modules(_: object) -> bool:
    layer = nn.Identity()
    return _children(nn.Sequential(layer)) == {"0": layer}


def _holds_parameters(_: object) -> bool:
    layer = nn.Linear(1, 1, bias=False, device="meta")
    weight = layer.weight = nn.Parameter(layer.weight.detach())
    own = _parameters(layer)
    return own.keys() == {"weight", "bias"} and own["weight"] is weight and own["bias"] is None


# Functions, and no attrgetter: torch.compile looks into them.
def _children(module: nn.Module) -> Mapping[str, nn.Module]:
    return module._modules


def _parameters(module: nn.Module) -> Mapping[str, Tensor | None]:
    return module._parameters


# An instance has them, its class has not: what is looked up is what makes them.
_MAKES_THEM = f"{_MODULE}.Module.__init__"

#: The modules in a module, by name.
children: Callable[[nn.Module], Mapping[str, nn.Module]] = _children_by_name
if choose(_MAKES_THEM, _holds_modules, None) is not None:
    children = _children

#: The parameters of a module, by name: ``None`` for those that it does without.
parameters: Callable[[nn.Module], Mapping[str, Tensor | None]] = _parameters_by_name
if choose(_MAKES_THEM, _holds_parameters, None) is not None:
    parameters = _parameters


def _buffers_by_name(module: nn.Module) -> Mapping[str, Tensor | None]:
    return _ByName(module, dict(module.named_buffers(recurse=False)))


def _buffers(module: nn.Module) -> Mapping[str, Tensor | None]:
    return module._buffers


def _holds_buffers(_: object) -> bool:
    layer = nn.BatchNorm1d(1, device="meta")
    own = _buffers(layer)
    return own.keys() == {"running_mean", "running_var", "num_batches_tracked"}


#: The buffers of a module, by name.
buffers: Callable[[nn.Module], Mapping[str, Tensor | None]] = _buffers_by_name
if choose(_MAKES_THEM, _holds_buffers, None) is not None:
    buffers = _buffers


def _responds(register: Callable) -> Callable[[Mapping], bool]:
    """A check of a dictionary of hooks: it is what a public function puts them into."""

    def check(hooks: Mapping) -> bool:
        before = len(hooks)
        handle = register(lambda *_: None)
        inside = len(hooks)
        handle.remove()
        return (inside, len(hooks)) == (before + 1, before)

    return check


def _is_mapping(hooks: object) -> bool | None:
    # Registering one would forbid hooks of the older kind for good.
    return None if isinstance(hooks, Mapping) else False


#: What stands for a dictionary of hooks that is not known: something may be in it.
_UNKNOWN = {"unknown": True}
#: torch's hooks of all modules: forward, before it, backward, before it.
HOOKS_OF_ALL: tuple[Mapping, ...] = tuple(
    choose(f"{_MODULE}._global_{kind}_hooks", check, _UNKNOWN)
    for kind, check in (
        ("forward", _responds(torch_module.register_module_forward_hook)),
        ("forward_pre", _responds(torch_module.register_module_forward_pre_hook)),
        ("backward", _is_mapping),
        ("backward_pre", _is_mapping),
    )
)
_FORWARD, _FORWARD_PRE, _BACKWARD, _BACKWARD_PRE = HOOKS_OF_ALL


#: Attribute of a function that computes what a class's ``forward`` does, which it holds.
STANDS_FOR = "stands_for"


def is_bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of ``module`` is one of ``kind.forward``, and nothing sees or changes it."""
    if _FORWARD or _FORWARD_PRE or _BACKWARD or _BACKWARD_PRE:
        return False
    return is_itself(module, kind)


def _is_itself(module: nn.Module, kind: type[nn.Module]) -> bool:
    if type(module) is not kind:
        return False
    own = module.__dict__
    return not (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or ("forward" in own and getattr(own["forward"], STANDS_FOR, None) is not kind.forward)
        or "_compiled_call_impl" in own  # of nn.Module.compile
        or (torch.compiler.is_compiling() and _is_replaced(module))
    )


def _is_replaced(module: nn.Module) -> bool:
    """The last two of :func:`_is_itself` for torch.compile: a graph is made anew where an attribute
    that was asked for is another one, not where a dictionary gets a name that it had not."""
    return not hasattr(module, "forward") or module._compiled_call_impl is not None


def _sees_hooks(_: object) -> bool:
    """Check of :func:`_is_itself`: a module of no hooks is, one with any public kind is not."""
    if not hasattr(nn.Module, "_compiled_call_impl"):  # to compile a module takes a second
        return False
    for kind in ("forward", "forward_pre", "full_backward", "full_backward_pre"):
        module = nn.Identity()
        untouched = _is_itself(module, nn.Identity)
        handle = getattr(module, f"register_{kind}_hook")(lambda *_: None)
        hooked = not _is_itself(module, nn.Identity)
        handle.remove()
        if not (untouched and hooked and _is_itself(module, nn.Identity)):
            return False
    return True


def _never(module: nn.Module, kind: type[nn.Module]) -> bool:
    return False


#: :func:`is_bare` but for torch's hooks of all modules; where torch keeps hooks in another way, no
#: module is, and all are called.
is_itself: Callable[[nn.Module, type[nn.Module]], bool] = _never
if choose(f"{_MODULE}.Module.__call__", _sees_hooks, None) is not None:
    is_itself = _is_itself


def before_loading(module: nn.Module, hook: Callable) -> None:
    """Have ``hook`` called before tensors are loaded into a module, alone or in another.

    Args:
        module: the module.
        hook: takes the module, the state dict, the prefix of the module's keys in it, and more.
    """
    if hasattr(nn.Module, "register_load_state_dict_pre_hook"):  # torch >= 2.5
        module.register_load_state_dict_pre_hook(hook)
    else:
        module._register_load_state_dict_pre_hook(hook, with_module=True)


#: Whose hooks are a model's own: they collect what is computed within the call that they are in,
#: and do nothing else.
COLLECTORS = ("transformers.utils.output_capturing",)
#: Kinds of hooks that a module's call runs.
KINDS = ("forward", "forward_pre", "backward", "backward_pre")


def hooks_of(module: nn.Module) -> list[Mapping]:
    """The dictionaries of a module's hooks, of each of :data:`KINDS`: the same ones as long as it
    lives. Empty ones where torch keeps hooks in another way."""
    own = module.__dict__
    return [own.get(f"_{kind}_hooks", {}) for kind in KINDS]


def why_watched(module: nn.Module) -> str | None:
    """What is called beside a module's ``forward``, or ``None``: hooks of its own, but for those of
    :data:`COLLECTORS`, or its compiled form."""
    for kind, hooks in zip(KINDS, hooks_of(module), strict=True):
        if any(getattr(hook, "__module__", None) not in COLLECTORS for hook in hooks.values()):
            return f"has a {kind.replace('_', '-')} hook"
    return "is compiled" if module.__dict__.get("_compiled_call_impl") is not None else None


def name_in_pickles(owner: object, method: str) -> str:
    """The name to give a function that a module, or another object, holds as a method: a pickle
    looks for it in the class, so that it is that of a method there."""
    return method if hasattr(type(owner), method) else "forward"
