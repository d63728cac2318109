"""Whether a block still has the parts that it was tried with.

A block's other ``forward`` computes what its attention and its MLP would, and does not call them.
So it stands for these very classes alone. Any part may be exchanged or given another class after
``accelerate``, and methods of classes be replaced: all is looked up at every call.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ...ops.torch_internals.module_contents import children


class TriedParts:
    """What blocks were made of that were found to compute the same.

    Args:
        names: of the parts that are not called, as in ``named_modules``; a block need not have all.
    """

    def __init__(self, names: Iterable[str]):
        self._paths = [(), *(tuple(name.split(".")) for name in names)]
        self._known: set[tuple] = set()

    def add(self, block: nn.Module) -> None:
        """A block that was tried, or is of a kind that was."""
        self._known.add(self._of(block))

    def has(self, block: nn.Module) -> bool:
        """Whether a block of the same parts was."""
        return self._of(block) in self._known

    def _of(self, block: nn.Module) -> tuple:
        return tuple([_written(_follow(block, path)) for path in self._paths])


def _follow(module: nn.Module | None, path: tuple[str, ...]) -> nn.Module | None:
    for name in path:
        module = children(module).get(name)
        if module is None:
            return None
    return module


def _written(module: nn.Module | None) -> tuple | None:
    """The class that somebody wrote, and what it computes: torch makes classes of classes, without
    a ``forward`` of their own, to shard modules and to parametrise tensors."""
    if module is None:
        return None
    for kind in type(module).__mro__:
        if not kind.__module__.startswith("torch."):
            return kind, type(module).forward
    return type(module), type(module).forward
