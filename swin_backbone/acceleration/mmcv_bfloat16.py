"""Ops of a compiled mmcv in bfloat16, which none of its kernels takes.

mmcv's kernels are compiled for float32, float64 and float16; those that suppress boxes for float32
alone. Under bfloat16 autocast a model that calls one stops with an error. Here a module's own
methods call copies of mmcv's functions, in which a call with such a tensor is answered by the op
that serves a mmcv without compiled ops, or else, as autocast has it for ops that need float32, by
the compiled op in float32. Other calls are the compiled op's, as they were.

Read in the sources of onedl-mmcv 2.3.6; other releases are taken to be alike.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ..ops.torch_internals.module_contents import STANDS_FOR
from .rewrite import Rewrite, Undo, inside_decorators, replace_methods, with_globals

#: What answers in the place of a compiled op, by its name; :mod:`swin_backbone.openmmlab` fills it.
SERVED: dict[str, Callable] = {}
#: Ops for float32 alone.
FLOAT32 = {"nms", "softnms", "nms_match"}
#: Packages whose functions a method may call before an op is reached, beside its own package.
PACKAGES = {"mmcv", "mmdet", "mmseg", "mmpretrain"}


def _compiled() -> ModuleType | None:
    """mmcv's extension, if it is loaded and compiled."""
    extension = sys.modules.get("mmcv._ext")
    is_served = getattr(extension, "nms", None) is SERVED.get("nms")
    return None if extension is None or is_served else extension


def finds(module: nn.Module) -> bool:
    return bool(_methods(module))


def why_not(module: nn.Module) -> str | None:
    return None


def apply(module: nn.Module) -> Undo:
    return replace_methods(module, _methods(module))


def _methods(module: nn.Module) -> dict[str, Callable]:
    """Methods that reach a compiled op and that nothing has replaced, as they take bfloat16."""
    extension = _compiled()
    if extension is None or type(module).__module__.startswith("torch."):
        return {}
    found = _of_class(type(module), extension)
    return {name: method for name, method in found.items() if name not in module.__dict__}


#: Of a class and an extension: it takes a while to look through a class.
_known: dict[tuple[type, ModuleType], dict[str, Callable]] = {}


def _of_class(kind: type, extension: ModuleType) -> dict[str, Callable]:
    if (kind, extension) not in _known:
        copies = _Copies(extension, PACKAGES | {kind.__module__.partition(".")[0]})
        changed = {
            name: copies.of(getattr(kind, name))
            for base in kind.__mro__
            if not base.__module__.startswith(("torch", "builtins"))
            for name, value in vars(base).items()
            if isinstance(value, FunctionType) and not name.startswith("__")
        }
        _known[kind, extension] = {name: one for name, one in changed.items() if one is not None}
        for name, one in _known[kind, extension].items():
            setattr(one, STANDS_FOR, getattr(kind, name))  # and nobody watches the module
    return _known[kind, extension]


class _Copies:
    """Copies of functions that reach compiled ops.

    Args:
        extension: with the compiled ops.
        packages: whose functions are looked through.
    """

    def __init__(self, extension: ModuleType, packages: set[str]):
        self.extension, self.packages = extension, packages
        self.known: dict[object, object] = {}
        self.entered: list = []

    def of(self, value):
        """A function, an autograd function or what applies one, as it takes bfloat16; ``None`` for
        what reaches no op."""
        if value is self.extension:
            return _Ops(value)
        if getattr(value, "__name__", "") == "apply" and _is_autograd(
            getattr(value, "__self__", None)
        ):
            changed = self.of(value.__self__)
            return None if changed is None else changed.apply
        is_function = _is_autograd(value)
        if not (is_function or isinstance(value, FunctionType)) or not self._is_ours(value):
            return None
        if value in self.known or value in self.entered:
            return self.known.get(value)  # what calls itself calls itself as it was
        self.entered.append(value)
        changed = (self._autograd if is_function else self._function)(value)
        self.entered.pop()
        if changed is not None or not self.entered:  # else a circle may have hidden an op
            self.known[value] = changed
        return changed

    def _is_ours(self, value) -> bool:
        return value.__module__.partition(".")[0] in self.packages

    def _function(self, function: FunctionType) -> FunctionType | None:
        inner = inspect.unwrap(function)
        if not isinstance(inner, FunctionType):
            return None
        changed = {name: self.of(inner.__globals__[name]) for name in _globals_of(inner)}
        changed = {name: value for name, value in changed.items() if value is not None}
        if not changed:
            return None
        return inside_decorators(function, lambda one: with_globals(one, **changed))

    def _autograd(self, stock: type[Function]) -> SimpleNamespace | None:
        methods = {name: getattr(stock, name) for name in ("forward", "backward")}
        changed = {name: self.of(method) for name, method in methods.items()}
        changed = {name: method for name, method in changed.items() if method is not None}
        if not changed:
            return None
        names = {one for method in methods.values() for one in _names(inspect.unwrap(method))[1]}
        called = {name for name in names if _is_op(self.extension, name)}
        ours = None
        if called <= SERVED.keys():
            ours = type(stock.__name__, (stock,), {n: staticmethod(m) for n, m in changed.items()})
        return SimpleNamespace(apply=_applied(stock, ours, called))


def _is_autograd(value) -> bool:
    return isinstance(value, type) and issubclass(value, Function)


def _globals_of(function: FunctionType) -> Iterator[str]:
    looked_up, _ = _names(function)
    for name, value in function.__globals__.items():
        # mmcv finds its kinds of suppression by evaluating their names.
        is_evaluated = (
            "eval" in looked_up and getattr(value, "__module__", "") == function.__module__
        )
        if name in looked_up or is_evaluated:
            yield name


def _names(function: Callable) -> tuple[set[str], set[str]]:
    """Names of globals, and of all else, that a function and those within it look up."""
    looked_up, others = set(), set()
    codes = [getattr(function, "__code__", None)]
    while codes:
        code = codes.pop()
        if isinstance(code, CodeType):
            codes += code.co_consts
            for one in dis.get_instructions(code):
                if one.opname == "LOAD_GLOBAL":
                    looked_up.add(one.argval)
                elif isinstance(one.argval, str):
                    others.add(one.argval)
    return looked_up, others


def _is_op(extension: ModuleType, name: str) -> bool:
    return name in SERVED or name in vars(extension)


def _applied(stock: type[Function], ours: type[Function] | None, ops: set[str]) -> Callable:
    """What takes the place of ``stock.apply``."""

    def apply(*args):
        if not any(_is_refused(value, ops) for value in args):
            return stock.apply(*args)
        if ours is not None:
            try:
                return ours.apply(*args)
            except NotImplementedError:  # an option that the served op has not
                pass
        return stock.apply(*(x.float() if _is_refused(x, ops) else x for x in args))

    return apply


def _is_refused(value, ops: set[str]) -> bool:
    """Whether an op takes no tensor of this dtype."""
    if not isinstance(value, Tensor):
        return False
    return value.dtype == torch.bfloat16 or (
        value.dtype == torch.half and not ops.isdisjoint(FLOAT32)
    )


class _Ops:
    """mmcv's extension, in which ops that refuse their tensors are the served ones."""

    def __init__(self, extension: ModuleType):
        self._extension = extension

    def __getattr__(self, name: str):
        compiled, served = getattr(self._extension, name), SERVED.get(name)
        if served is None:
            return compiled

        def op(*args, **kwargs):
            refused = any(_is_refused(value, {name}) for value in (*args, *kwargs.values()))
            return (served if refused else compiled)(*args, **kwargs)

        return op


REWRITE = Rewrite(
    "bfloat16_ops",
    "ops of the compiled mmcv, which take no bfloat16, by served ones in it",
    finds,
    why_not,
    apply,
)
