"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import scale_images


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

    def sample(self, x: Tensor) -> Tensor | None:
        """Factors (B,) of the samples of ``x`` (B, ...), float32: 0 for those that are dropped.

        ``None`` outside training, where nothing is dropped.
        """
        if self.drop_prob == 0.0 or not self.training:
            return None
        keep = 1.0 - self.drop_prob
        kept = torch.empty(x.shape[0], dtype=torch.float32, device=x.device).bernoulli_(keep)
        return kept.div_(keep) if keep > 0.0 else kept

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape, samples dropped in training only."""
        return scale_images(x, self.sample(x))

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:g}"
