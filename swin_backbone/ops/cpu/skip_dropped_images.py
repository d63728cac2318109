"""Stochastic depth that saves the work which it throws away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def skip_dropped_images(
    branch: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    path_scale: Tensor | None,
    parameters: Sequence[Tensor | None],
) -> Tensor:
    """``branch(x, path_scale)``, computed only for images whose ``path_scale`` is not zero.

    Reading ``path_scale`` costs nothing on a CPU; on a GPU it would wait for all that runs before.

    Args:
        branch: ``x + path_scale * f(x)`` from x (B, H, W, C) and ``path_scale``, (B,) or ``None``.
        x: (B, H, W, C).
        path_scale: (B,) factor of each image's branch; ``None`` for 1.
        parameters: of the branch. Their gradient is zero, not missing, where no image is kept:
            distributed training waits for all of them.

    Returns:
        (B, H, W, C).
    """
    if path_scale is None:
        return branch(x, None)
    kept = torch.nonzero(path_scale).view(-1)
    if len(kept) == len(x):
        return branch(x, path_scale)
    if len(kept) == 0:
        return _Skip.apply(x, *(p for p in parameters if p is not None))
    return x.index_copy(0, kept, branch(x[kept], path_scale[kept]))


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
