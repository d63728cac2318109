"""A rewrite of the Swin blocks of one library."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from ...model.plain_modules import is_bare
from ...ops.torch_internals.module_contents import children, parameters
from ..rewrite import Rewrite, Undo, imported, replace_methods
from .same_results import Calls, why_different, why_sharded
from .tried_parts import TriedParts
from .weights_together import bring_together

#: The switch of all of them.
NAME = "swin_blocks"
WHAT = "windows, norms and linear layers by our operations"

#: A module and a name in it.
Place = tuple[str, str]


def block_rewrite(
    is_block: Callable[[nn.Module], bool],
    why_not: Callable[[nn.Module], str | None],
    forward: Callable,
    calls: Calls,
    parts: Iterable[str],
) -> Rewrite:
    """A rewrite that gives blocks another ``forward``.

    Args:
        is_block: whether a module is one of the library's blocks.
        why_not: why a block is built otherwise than ``forward`` computes it, or ``None``.
        forward: takes the block, and what its own takes. It falls back on the class's own.
        calls: examples of what a block is called with, by which the two are compared.
        parts: names of the modules in a block that ``forward`` computes instead of calling them.
    """
    tried = TriedParts(parts)

    def reason(block: nn.Module) -> str | None:
        if "forward" in block.__dict__:
            return "its forward was replaced"
        found = why_sharded(block) or why_not(block) or why_different(block, forward, calls)
        if found is None:
            tried.add(block)
        return found

    def as_tried(block: nn.Module, *arguments, **options):
        run = forward if tried.has(block) else type(block).forward
        return run(block, *arguments, **options)

    def apply(block: nn.Module) -> Undo:
        return replace_methods(block, {"forward": as_tried})

    return Rewrite(NAME, WHAT, is_block, reason, apply, join=_join)


def _join(blocks: Mapping[str, nn.Module]) -> list[Undo]:
    """Blocks whose names differ in numbers alone are those of one encoder."""
    encoders: dict[str, list[nn.Module]] = {}
    for name, block in blocks.items():
        encoders.setdefault(re.sub(r"\d+", "", name), []).append(block)
    return [bring_together(own) for own in encoders.values()]


def is_one_of(module: nn.Module, places: Iterable[Place]) -> bool:
    """Whether a module is of one of the classes that were imported from ``places``."""
    kinds = tuple(kind for place in places if (kind := imported(*place)) is not None)
    return isinstance(module, kinds)


def own_forward(module: nn.Module, places: Iterable[Place]) -> str | None:
    """Why ``forward`` is not that of a class of ``places``, or ``None`` if it is.

    Wrappers around it count as it: gradient checkpointing, and sharding, make classes of their own.
    """
    forward = inspect.unwrap(type(module).forward)
    for place in places:
        kind = imported(*place)
        if kind is not None and inspect.unwrap(kind.forward) is forward:
            return None
    return f"{type(module).__name__} has a forward of its own"


def is_usual_call(block: nn.Module, x: Tensor, axes: int) -> bool:
    """Whether a call can be computed with the parameters of the block's modules: on a tensor of so
    many axes with something in it, with no one watching these modules, and in the dtype of the
    weights or under autocast. Otherwise the class's own runs, or says what is wrong."""
    if type(x) not in (Tensor, nn.Parameter) or x.is_meta or torch.jit.is_tracing():
        return False
    if x.dim() != axes or not x.numel() or not _takes(block, x):
        return False
    return not _is_watched(block)


def _takes(block: nn.Module, x: Tensor) -> bool:
    """Whether norms and what they get have one dtype; under autocast they may differ."""
    norms = (child for child in children(block).values() if type(child) is nn.LayerNorm)
    weights = [parameters(norm).get("weight") for norm in norms]
    same = all(weight is None or weight.dtype == x.dtype for weight in weights)
    return same or torch.is_autocast_enabled(x.device.type)


def _is_watched(module: nn.Module) -> bool:
    """Whether a module within has hooks or a forward of its own, or all modules have hooks."""
    waiting = [module]
    while waiting:
        for child in children(waiting.pop()).values():
            if child is not None:
                if not is_bare(child, type(child)):
                    return True
                waiting.append(child)
    return False
