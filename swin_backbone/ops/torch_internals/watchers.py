"""Dispatch modes, transforms of ``torch.func`` and forward-mode derivatives that are under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.autograd import forward_ad

from .choosing import choose, find

MODES = "torch.utils._python_dispatch"
INTERPRETERS = "torch._C._functorch"


def _counts_modes(count: Callable[[], int]) -> bool:
    before = count()
    with find(f"{MODES}.TorchDispatchMode")():
        inside = count()
    return (before, inside, count()) == (0, 1, 0)


def _lists_modes(modes: Callable[[], Sequence]) -> bool:
    mode = find(f"{MODES}.TorchDispatchMode")()
    with mode:
        inside = list(modes())
    return inside == [mode] and not modes()


def _knows_transforms(innermost: Callable[[], object | None]) -> bool | None:
    # torch.func.grad would do it too; it imports a thousand modules.
    enter = find(f"{INTERPRETERS}._grad_increment_nesting")
    leave = find(f"{INTERPRETERS}._grad_decrement_nesting")
    if enter is None or leave is None:
        return None
    before = innermost()
    enter()
    try:
        inside = innermost()
    finally:
        leave()
    return before is None and inside is not None and innermost() is None


#: How many dispatch modes are on. Nothing public says it, so the other answer is always that one
#: is: then plain operators run, which is right whether or not it is so.
count_dispatch_modes: Callable[[], int] = choose(
    "torch._C._len_torch_dispatch_stack", _counts_modes, lambda: 1
)
#: The modes; without an answer something that stands for any of them.
_dispatch_modes: Callable[[], Sequence] = choose(
    f"{MODES}._get_current_dispatch_mode_stack", _lists_modes, lambda: (None,)
)
#: The innermost transform of ``torch.func``, or ``None``; without an answer there always is one.
innermost_transform: Callable[[], object | None] = choose(
    f"{INTERPRETERS}.peek_interpreter_stack", _knows_transforms, lambda: "unknown"
)


def counts_flops() -> bool:
    """Whether PyTorch's ``FlopCounterMode`` is on; where it cannot be told, any mode counts."""
    if not count_dispatch_modes():
        return False
    names = [type(mode).__name__ for mode in _dispatch_modes()]
    return any("FlopCounterMode" in name or name == "NoneType" for name in names)


def _asks_for_a_level() -> bool:
    """Whether forward-mode differentiation is under way: only then are there dual tensors."""
    zero = torch.zeros((), device="cpu")
    try:
        forward_ad.make_dual(zero, zero)
    except RuntimeError:
        return False
    return True


def _reads_the_level() -> bool:
    return forward_ad._current_level >= 0


def _is_level(level: object) -> bool:
    if not isinstance(level, int):
        return False
    try:
        with forward_ad.dual_level():
            inside = _reads_the_level()
    except RuntimeError:  # levels do not nest, and all threads share one: somebody is in it
        return _reads_the_level()
    return inside and not _reads_the_level()


def _choose_levels() -> Callable[[], bool]:
    name = "torch.autograd.forward_ad._current_level"
    return _reads_the_level if choose(name, _is_level, None) is not None else _asks_for_a_level


#: Whether forward-mode differentiation is under way.
has_forward_derivatives: Callable[[], bool] = _choose_levels()
