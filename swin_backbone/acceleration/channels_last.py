"""Weights of convolutions in channels-last memory, as the backbone leaves its maps.

A convolution in this format needs no copies around it, and cuDNN's 16-bit ones are made for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .rewrite import Rewrite, Undo


def finds(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d:
        return False
    # Patch embeddings are linear layers on patches, and kernels read their weights as these lie.
    return module.kernel_size != module.stride or module.kernel_size == (1, 1)


def why_not(convolution: nn.Module) -> str | None:
    if type(convolution.weight) is not nn.Parameter or convolution.weight.dim() != 4:
        return "its weight is sharded"
    return None if convolution.weight.is_cuda else "it is not on a GPU"


def apply(convolution: nn.Module) -> Undo:
    _set_format(convolution.weight, torch.channels_last)
    return lambda: _set_format(convolution.weight, torch.contiguous_format)


def _set_format(weight: nn.Parameter, memory_format: torch.memory_format) -> None:
    weight.data = weight.data.contiguous(memory_format=memory_format)
    if weight.grad is not None:
        weight.grad = weight.grad.contiguous(memory_format=memory_format)


def match_gradients(convolutions: Mapping[str, nn.Module]) -> list[Undo]:
    """Before steps of optimizers, give gradients the strides of their weights.

    ``DistributedDataParallel`` with ``gradient_as_bucket_view`` leaves them as weights lay when it
    was made: until its second step, for which it makes new buckets, or always where it looks for
    unused parameters. Fused optimizers go through weights and gradients in the order of memory, and
    refuse.
    """
    weights = [weakref.ref(convolution.weight) for convolution in convolutions.values()]
    if not weights:
        return []

    differed = False

    def lay_out(*_) -> None:
        nonlocal differed
        found = [w for ref in weights if (w := ref()) is not None and w.grad is not None]
        others = [w for w in found if w.grad.stride() != w.stride()]
        for weight in others:
            weight.grad = torch.empty_like(weight, dtype=weight.grad.dtype).copy_(weight.grad)
        differed |= bool(others)
        if found and not differed:  # they never will
            handle.remove()

    handle = register_optimizer_step_pre_hook(lay_out)
    return [handle.remove]


REWRITE = Rewrite(
    "channels_last", "weights in channels-last memory", finds, why_not, apply, join=match_gradients
)
