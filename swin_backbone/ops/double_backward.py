"""Gradients that are to be differentiated themselves, as gradient penalties ask for.

A backward pass by hand, or by a kernel, has no derivative. Where one is wanted
(``create_graph=True``, which enables gradients in the backward pass), gradients come from the plain
operators that define the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

import torch
from torch import Tensor


def plain_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], gradient: Tensor
) -> list[Tensor | None]:
    """Gradients of ``function(*inputs)``, differentiable in ``inputs`` and ``gradient``.

    Args:
        function: of plain operators.
        inputs: its arguments, as they were saved for the backward pass.
        gradient: for its result.

    Returns:
        One for each input, ``None`` where it has none.
    """
    with torch.enable_grad():
        # Aliases: an input may have been computed from another, whose own gradient is wanted here.
        aliases = [
            tensor.view_as(tensor) if tensor is not None and tensor.requires_grad else tensor
            for tensor in inputs
        ]
        result = function(*aliases)
    learned = [tensor is not None and tensor.requires_grad for tensor in aliases]
    wanted = [tensor for tensor, learns in zip(aliases, learned, strict=True) if learns]
    gradients = iter(
        torch.autograd.grad(result, wanted, gradient, create_graph=True, allow_unused=True)
    )
    return [next(gradients) if learns else None for learns in learned]


def differentiable_once(backward: Callable) -> Callable:
    """A backward pass whose own derivative is an error that says what has one.

    PyTorch's ``once_differentiable`` gives zeros, and no error, where the gradients that come in
    are constants, and where :func:`torch.autograd.grad` is asked for what the function was given.
    """

    @wraps(backward)
    def guarded(ctx, *gradients):
        # Compiled gradients have no derivatives: torch says so itself.
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return backward(ctx, *gradients)
        with torch.no_grad():
            results = backward(ctx, *gradients)
        learned = [t for t in (*gradients, *ctx.saved_tensors) if t is not None and t.requires_grad]
        if not learned:
            return results
        return tuple(
            None if result is None else _NoDerivative.apply(result, *learned) for result in results
        )

    return guarded


class _NoDerivative(torch.autograd.Function):
    """The first argument, which depends on the others in a way that has no derivative."""

    @staticmethod
    def forward(ctx, result, *learned):
        return result.view_as(result)

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError(
            "the Triton kernels have first derivatives only; for derivatives of gradients "
            "(create_graph=True) build the backbone with backend='reference', or on the CPU"
        )
