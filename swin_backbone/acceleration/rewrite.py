"""What a rewrite is: it finds modules, says why one cannot be rewritten, and rewrites one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType

from torch import nn

from ..ops.torch_internals.distributed_models import REPLICATE, replica_with_own_methods
from ..ops.torch_internals.module_contents import name_in_pickles

#: Takes back what a rewrite did.
Undo = Callable[[], None]


@dataclass(frozen=True)
class Rewrite:
    """One way to make models faster. Parameters, buffers and their names stay as they are.

    Attributes:
        name: its switch in :func:`swin_backbone.accelerate`.
        what: what it puts in place, in a few words, for the report.
        finds: whether a module is of the kind that it is about.
        why_not: why this module is left alone, or ``None`` if it is rewritten.
        apply: rewrites a module and returns what takes it back.
        join: does more with all modules of a model that were rewritten, by their names.
    """

    name: str
    what: str
    finds: Callable[[nn.Module], bool]
    why_not: Callable[[nn.Module], str | None]
    apply: Callable[[nn.Module], Undo]
    join: Callable[[Mapping[str, nn.Module]], list[Undo]] | None = None


def replace_methods(module: object, functions: Mapping[str, Callable]) -> Undo:
    """Give one module, or an object that one holds, other methods; its class and all others keep
    theirs.

    Copies of the module (``copy.deepcopy``, ``nn.DataParallel``) have the same methods, bound to
    themselves. Pickles refer to methods by name, so that a module that is loaded has those of its
    class, and needs no more; a method that the class does not have becomes its ``forward``.

    Args:
        module: the module.
        functions: by the name of the method, what takes its place; the first argument is the
            module.
    """
    functions = {
        name: _named(function, name_in_pickles(module, name))
        for name, function in functions.items()
    }
    for name, function in functions.items():
        module.__dict__[name] = MethodType(function, module)
    if isinstance(module, nn.Module):
        module.__dict__[REPLICATE] = MethodType(replica_with_own_methods, module)

    def undo() -> None:
        for name, function in functions.items():
            if _function_of(module, name) is function:
                del module.__dict__[name]
        if _function_of(module, REPLICATE) is replica_with_own_methods and not any(
            _function_of(module, name) for name in module.__dict__.keys() - {REPLICATE}
        ):
            del module.__dict__[REPLICATE]

    return undo


def _function_of(module: object, name: str) -> Callable | None:
    """Of a method that the module itself holds."""
    method = module.__dict__.get(name)
    is_own = isinstance(method, MethodType) and method.__self__ is module
    return method.__func__ if is_own else None


def drop_own_methods(module: nn.Module) -> None:
    """Forget methods of the class's own that a module, or an object that it holds, has as if they
    had replaced something: those of a pickle, see :func:`replace_methods`."""
    for value in list(module.__dict__.values()):
        for part in value if isinstance(value, list) else [value]:
            if hasattr(part, "__dict__") and not isinstance(part, (nn.Module, type)):
                _drop_own_methods(part)
    _drop_own_methods(module)


def _drop_own_methods(owner: object) -> None:
    for name, value in list(owner.__dict__.items()):
        # A static method is read as a function.
        function = value if isinstance(value, FunctionType) else _function_of(owner, name)
        if function is None:
            continue
        if getattr(type(owner), name_in_pickles(owner, name), None) is function:
            del owner.__dict__[name]


def _named(function: Callable, name: str) -> Callable:
    """The function under a method's name, by which it is pickled."""
    if function.__name__ == name:
        return function
    return _copy(function, function.__globals__, name)


def with_globals(function: FunctionType, **others: object) -> FunctionType:
    """The same function, which finds other objects under some of its global names."""
    return _copy(function, {**function.__globals__, **others}, function.__name__)


def inside_decorators(function: FunctionType, change: Callable) -> FunctionType:
    """A function changed, with the decorators around it.

    Args:
        function: as ``functools.wraps`` left it, or without decorators.
        change: gives the function that takes the place of the one within.
    """
    inner = getattr(function, "__wrapped__", None)
    if inner is None:
        return change(function)
    changed = inside_decorators(inner, change)
    cells = tuple(
        CellType(changed) if cell.cell_contents is inner else cell
        for cell in function.__closure__ or ()
    )
    outer = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    outer.__kwdefaults__ = function.__kwdefaults__
    return outer


def _copy(function: FunctionType, names: dict[str, object], own_name: str) -> FunctionType:
    changed = FunctionType(
        function.__code__, names, own_name, function.__defaults__, function.__closure__
    )
    changed.__kwdefaults__ = function.__kwdefaults__
    changed.__doc__ = function.__doc__
    return changed


def imported(module: str, name: str):
    """What a module holds under a name; ``None`` as long as nobody has imported the module, when
    no model can be of its classes."""
    return getattr(sys.modules.get(module), name, None)


def is_of(one: object, stock: type | None) -> bool:
    """Whether a module, or another object, is of a class that :func:`imported` has given."""
    return stock is not None and isinstance(one, stock)


def own_method(module: object, name: str, stock: type) -> str | None:
    """Why a method of a module, or of another object, is not the one that ``stock`` defines, or
    ``None`` if it is."""
    if name in module.__dict__:
        return f"its {name} was replaced"
    if getattr(type(module), name, None) is not getattr(stock, name):
        return f"{type(module).__name__} has a {name} of its own"
    return None


def own_methods(module: object, names: Iterable[str], stock: type) -> str | None:
    """:func:`own_method` of the first method that is not the one that ``stock`` defines."""
    reasons = (own_method(module, name, stock) for name in names)
    return next((reason for reason in reasons if reason is not None), None)


def all_of(undos: Sequence[Undo]) -> Undo:
    """One that undoes each."""

    def undo() -> None:
        for one in undos:
            one()

    return undo
