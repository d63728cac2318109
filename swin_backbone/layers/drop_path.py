"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .packing import Packing


class DropPath(nn.Module):
    """Drop a residual branch for whole samples (Deep Networks with Stochastic Depth,
    https://arxiv.org/abs/1603.09382), scaled so that the expectation stays.

    Args:
        drop_prob: probability of dropping, in [0, 1].
    """

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        if not 0.0 <= drop_prob <= 1.0:
            raise ValueError(f"drop_prob must lie in [0, 1], got {drop_prob}")
        self.drop_prob = drop_prob

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """(B, ...), or the tokens (T, C) of packed images, to the same shape; whole images are
        dropped, in training only."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1.0 - self.drop_prob
        count = x.shape[0] if packing is None else len(packing.sizes)
        kept = x.new_empty((count,) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        if packing is not None:
            counts = torch.tensor(packing.counts, device=x.device)
            kept = kept.repeat_interleave(counts, dim=0, output_size=len(x))
        return x * kept.div_(keep) if keep > 0.0 else x * kept

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:g}"
