"""What torch's optimizers know of loss scaling, and which tensors they step on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from .choosing import choose

#: Whether an optimizer's own step looks for infinities in its gradients.
_SCALES = "_step_supports_amp_scaling"


def leave_scaling_to_the_scaler(optimizer: Optimizer) -> None:
    """Have a loss scaler unscale gradients and look for infinities, as it does for optimizers that
    are not fused; where torch has no such mark, it does so by itself."""
    if hasattr(optimizer, _SCALES):
        setattr(optimizer, _SCALES, False)


def _collecting_parts(collect: Callable, part_of: Callable[[Tensor], Tensor]) -> Callable:
    def collect_parts(group: dict, *lists: list) -> object:
        found = collect(group, *lists)
        for tensors in lists:
            tensors[:] = map(part_of, tensors)
        return found

    return collect_parts


def _collects(function: Callable) -> bool:
    """Whether a step's tensors are those that it collects: parts step, and so nothing else does."""
    parameter = torch.ones(2, requires_grad=True, device="cpu")
    parameter.grad = torch.ones_like(parameter)
    optimizer = AdamW([parameter], lr=0.5)
    parts: list[Tensor] = []

    def part_of(tensor: Tensor) -> Tensor:
        parts.append(tensor.clone())
        return parts[-1]

    optimizer._init_group = _collecting_parts(function.__get__(optimizer), part_of)
    optimizer.step()
    return parameter.eq(1).all() and len(parts) == 5 and parts[0].ne(1).all()


@cache
def _collect() -> Callable | None:
    """What fills lists with a group's parameters, gradients, moments and steps. Looked for when it
    is wanted: a first step imports much of torch."""
    return choose("torch.optim.AdamW._init_group", _collects, None)


def step_on_parts(optimizer: Optimizer, part_of: Callable[[Tensor], Tensor]) -> None:
    """Have Adam and AdamW step on a part of each parameter, gradient and moment, which shares its
    memory, instead of on the tensor; their state stays one of whole tensors.

    For tensors whose every operation costs the host. Adam and AdamW only: each of their numbers
    comes from those of the same place, and they change in place all that they collect.
    """
    if _collect() is not None and type(optimizer) in (Adam, AdamW):
        optimizer._init_group = _collecting_parts(optimizer._init_group, part_of)
