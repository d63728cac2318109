"""What a module holds, read past ``nn.Module.__getattr__``, which takes ten times as long.

A backbone asks hundreds of times a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter

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


def _holds(name: str, of: str) -> Callable[[object], bool]:
    """A check of a dictionary that modules have: a bias that is none, and replaced, is there."""

    def check(_: object) -> bool:
        layer = nn.Linear(1, 1, bias=False, device="meta")
        model = nn.Sequential(layer)
        if of == "modules":
            return getattr(model, name) == {"0": layer}
        before = dict(getattr(layer, name))
        layer.weight = nn.Parameter(layer.weight.detach())
        after = getattr(layer, name)
        return before.keys() == {"weight", "bias"} and after["weight"] is layer.weight

    return check


def _reader(name: str, of: str, plainly: Callable) -> Callable:
    # An instance has it, its class has not: what is looked up is the class's maker of it.
    chosen = choose(f"{_MODULE}.Module.__init__", _holds(name, of), None)
    return plainly if chosen is None else attrgetter(name)


#: The modules in a module by name, and its parameters, ``None`` for those that it does without.
children: Callable[[nn.Module], Mapping[str, nn.Module]] = _reader(
    "_modules", "modules", _children_by_name
)
parameters: Callable[[nn.Module], Mapping[str, Tensor | None]] = _reader(
    "_parameters", "parameters", _parameters_by_name
)


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
        or "forward" in own
        or "_compiled_call_impl" in own  # of nn.Module.compile
    )


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
