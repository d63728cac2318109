"""Who wants to see, or to transform, the operators that are run: fast ways of our own hide them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .torch_internals.watchers import (
    count_dispatch_modes,
    counts_flops,
    has_forward_derivatives,
    innermost_transform,
)

__all__ = ["counts_flops", "in_functorch", "why_plain_operators"]


def why_plain_operators(x: Tensor) -> str | None:
    """Why ``x`` is to be computed with by plain operators, or ``None`` if any way will do.

    Compilers are asked about elsewhere: they see registered operators.
    """
    if torch.jit.is_tracing():
        return "is being traced"
    if count_dispatch_modes() or type(x) not in (Tensor, nn.Parameter):
        return "something watches the operators"
    if in_functorch():
        return (
            "transforms of torch.func and forward-mode derivatives take plain operators only: "
            "use backend='reference' or 'auto'"
        )
    return None


def in_functorch() -> bool:
    """Whether a transform of ``torch.func``, or forward-mode differentiation, is under way."""
    return innermost_transform() is not None or has_forward_derivatives()
