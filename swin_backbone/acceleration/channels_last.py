"""Weights of convolutions in channels-last memory, as the backbone leaves its maps.

A convolution in this format needs no copies around it, and cuDNN's 16-bit ones are made for it.
"""

from __future__ import annotations

import torch
from torch import nn

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


REWRITE = Rewrite("channels_last", "weights in channels-last memory", finds, why_not, apply)
