"""What heads of mmdet keep beside modules: objects with methods that can be faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from .rewrite import Rewrite, Undo, all_of, imported, own_method, replace_methods


def parts_of(module: nn.Module, names: tuple[str, ...], stock: type | None) -> Iterator:
    """Objects of a class that a head has under one of ``names``, one or one for each stage."""
    for name in names if stock is not None else ():
        value = module.__dict__.get(name)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, stock):
                yield one


def rewrite_of_parts(
    name: str,
    what: str,
    names: tuple[str, ...],
    stock: tuple[str, str],
    functions: dict[str, Callable],
    also: tuple[str, ...] = (),
) -> Rewrite:
    """A rewrite that gives such objects other methods.

    Args:
        name: of the rewrite.
        what: it does.
        names: under which heads have the objects.
        stock: module and name of their class.
        functions: what takes the places of methods, by their names.
        also: other methods that they stand for, which must be the class's.
    """

    def parts(module: nn.Module) -> list:
        return list(parts_of(module, names, imported(*stock)))

    def finds(module: nn.Module) -> bool:
        return bool(parts(module))

    def why_not(module: nn.Module) -> str | None:
        reasons = (
            own_method(part, one, imported(*stock))
            for part in parts(module)
            for one in (*functions, *also)
        )
        return next((reason for reason in reasons if reason is not None), None)

    def apply(module: nn.Module) -> Undo:
        return all_of([replace_methods(part, functions) for part in parts(module)])

    return Rewrite(name, what, finds, why_not, apply)
