"""Stochastic depth that saves the work which it throws away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def for_kept_images(
    half: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    keep: Tensor | None,
    parameters: Sequence[Tensor | None],
) -> Tensor:
    """``half(x, keep)``, computed only for images whose ``keep`` is not zero.

    Reading ``keep`` costs nothing on a CPU; on a GPU it would wait for all that runs before.

    Args:
        half: ``x + keep * branch(x)`` from x (B, H, W, C) and ``keep`` (B,) or ``None``.
        x: (B, H, W, C).
        keep: (B,) factor of each image's branch; ``None`` for 1.
        parameters: of the branch. Their gradient is zero, not missing, where no image is kept:
            distributed training waits for all of them.

    Returns:
        (B, H, W, C).
    """
    if keep is None:
        return half(x, None)
    kept = torch.nonzero(keep).view(-1)
    if len(kept) == len(x):
        return half(x, keep)
    if len(kept) == 0:
        return _Skip.apply(x, *(p for p in parameters if p is not None))
    return x.index_copy(0, kept, half(x[kept], keep[kept]))


class _Skip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, *parameters):
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        zeros = (
            torch.zeros_like(parameter) if needed else None
            for parameter, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        )
        return gradient, *zeros
