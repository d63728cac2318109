"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import Packing, scale_images


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

    def sample(self, x: Tensor, packing: Packing | None = None) -> Tensor | None:
        """Factors, float32, 0 for images that are dropped: (B,) for ``x`` (B, ...), or (T,) for
        the tokens (T, C) of packed images.

        ``None`` outside training, where nothing is dropped.
        """
        if self.drop_prob == 0.0 or not self.training:
            return None
        keep = 1.0 - self.drop_prob
        count = x.shape[0] if packing is None else len(packing.sizes)
        kept = torch.empty(count, dtype=torch.float32, device=x.device).bernoulli_(keep)
        kept = kept.div_(keep) if keep > 0.0 else kept
        return kept if packing is None else packing.spread(kept)

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """(B, ...), or the tokens (T, C) of packed images, to the same shape; whole images are
        dropped, in training only."""
        return scale_images(x, self.sample(x, packing))

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:g}"
