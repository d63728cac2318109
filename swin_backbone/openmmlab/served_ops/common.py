"""What the served ops have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class UnsupportedOptionError(NotImplementedError):
    """An op was called with an option for which there is nothing to serve it with."""


def torchvision_ops():
    """``torchvision.ops``, or an error that says what to install."""
    try:
        import torchvision.ops
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise ImportError(
            "this mmcv has no compiled ops, and torchvision, whose ops serve detectors in their "
            "place, cannot be imported; install the torchvision that fits this torch "
            "(pip install torchvision)"
        ) from error
    return torchvision.ops


def at_least_float32(tensor: Tensor) -> Tensor:
    """Coordinates of an image do not fit into 16 bits, and not every kernel takes these."""
    return tensor.float() if tensor.element_size() < 4 else tensor


def write(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into the tensors that mmcv hands over, of whatever dtype these are."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


def gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of ``function(*inputs)`` with respect to each input; recomputes it."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        output = function(*inputs)
    if not output.requires_grad:  # there was nothing to do, such as no boxes
        return tuple(map(torch.zeros_like, inputs))
    return torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
