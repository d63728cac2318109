"""Random scales of residual branches: stochastic depth, for many branches in one draw."""

from collections.abc import Sequence
from typing import List  # noqa: UP035

import torch
from torch import Tensor

from .kept_tables import remembered_tables
from .symbolic_shapes import has_values
from .torch_internals.exporting import is_exporting
from .triton.autograd_op import register


def draw_path_scales(rates: Sequence[float], x: Tensor, images: int | None = None) -> Tensor:
    """Scales of residual branches (https://arxiv.org/abs/1603.09382), two for each rate.

    Args:
        rates: with which probability a block's branches are dropped, in [0, 1].
        x: (B, ...), what the branches get, or of variable length any tokens of theirs.
        images: B; ``None`` for the rows of ``x``.

    Returns:
        float32 (2 * rates, B or more), independent of each other: 0, or 1 / (1 - rate). Each branch
        begins at a multiple of 16 bytes, as kernels want it.
    """
    if images is not None:
        return _draw(rates, x, images)
    if torch.compiler.is_compiling() and not is_exporting():
        return _draw_in_a_graph(x.detach(), rates)
    return _draw(rates, x, x.shape[0])


def _draw(rates: Sequence[float], x: Tensor, images: int) -> Tensor:
    make = _remembered_probabilities if has_values(x) else _probabilities
    keep_probs, divisors = make(tuple(rates), x.device)
    return torch.bernoulli(keep_probs.expand(-1, _padded(images))).div_(divisors)


def _padded(images: int) -> int:
    return -(-images // 4) * 4


def _probabilities(rates: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """For two branches of each rate, (branches, 1) float32: with which probability they are kept,
    and what they are then divided by."""
    keep_probs = [1.0 - rate for rate in rates for _ in range(2)]
    return _column(keep_probs, device), _column([number or 1.0 for number in keep_probs], device)


_remembered_probabilities = remembered_tables(_probabilities)


def _column(numbers: Sequence[float], device: torch.device) -> Tensor:
    """(N, 1), written by kernels alone: a graph may capture these, but no copy from the host."""
    wide = {"dtype": torch.float32, "device": device}
    return torch.stack([torch.full((1,), number, **wide) for number in numbers])


def _draw_for_rows(x: Tensor, rates: List[float]) -> Tensor:  # noqa: UP006
    return _draw(rates, x, x.shape[0])


#: For compilers, whose own random numbers are others, and take kernels of their own.
_draw_in_a_graph = register("draw_path_scales", _draw_for_rows, random=True)


@_draw_in_a_graph.register_fake
def _(x, rates):
    return x.new_empty(2 * len(rates), _padded(x.shape[0]), dtype=torch.float32)
