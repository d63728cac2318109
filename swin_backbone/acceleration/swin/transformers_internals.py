"""What the rewrite of transformers' layers uses and does not find in transformers' documentation.

Tested with transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def attention_implementation(config: object) -> str:
    """What computes attention where it can be chosen: ``'sdpa'``, ``'eager'``, ...; ``'eager'``
    where it cannot."""
    return getattr(config, "_attn_implementation", None) or "eager"


def recompute(layer: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``run(x)``, computed again in the backward pass, in the way that was chosen for the model."""
    way = getattr(layer, "_gradient_checkpointing_func", None)
    return checkpoint(run, x, use_reentrant=False) if way is None else way(run, x)
