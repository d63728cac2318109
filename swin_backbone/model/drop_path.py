"""Stochastic depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import MAPS, TokenLayout, draw_path_scales, scale_images
from ..ops.geometry.token_layout import PathScales


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

    def is_dropping(self) -> bool:
        """Whether anything may be dropped: in training only."""
        return self.training and self.drop_prob > 0.0

    def sample(self, x: Tensor, layout: TokenLayout = MAPS) -> Tensor | None:
        """Scales, float32, 0 for images that are dropped: (B,) for ``x`` (B, ...), or (T,) for
        tokens (T, C) of variable length.

        ``None`` outside training, where nothing is dropped.
        """
        if not self.is_dropping():
            return None
        keep_prob = 1.0 - self.drop_prob
        kept = torch.empty(layout.num_images(x), dtype=torch.float32, device=x.device)
        kept = kept.bernoulli_(keep_prob)
        kept = kept.div_(keep_prob) if keep_prob > 0.0 else kept
        return layout.spread(kept)

    def forward(
        self, x: Tensor, layout: TokenLayout = MAPS, path_scale: Tensor | None = None
    ) -> Tensor:
        """(B, ...), or tokens (T, C) of variable length, to the same shape; whole images are
        dropped, in training only.

        ``path_scale`` is that of :meth:`sample`, where it has been drawn already.
        """
        return scale_images(x, self.sample(x, layout) if path_scale is None else path_scale)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:g}"


def sample_together(
    drop_paths: Sequence[DropPath | None], x: Tensor, layout: TokenLayout = MAPS
) -> list[PathScales | None]:
    """What :meth:`DropPath.sample` draws for both branches of each of many blocks, in one step.

    A draw is a few kernels however many numbers it brings, and a launch takes longer than they.

    Args:
        drop_paths: of the blocks; ``None`` for one that draws by itself.
        x: (B, ...), what the blocks get, or of variable length (T, C).
        layout: where the tokens lie.

    Returns:
        For each block the scales of its two branches, (B,) or (T,), independent of each other;
        ``None`` where nothing is dropped, or by itself.
    """
    dropping = [d is not None and d.is_dropping() for d in drop_paths]
    rates = [d.drop_prob for d, drops in zip(drop_paths, dropping, strict=True) if drops]
    if not rates:
        return [None] * len(drop_paths)
    images = layout.num_images(x)
    kept = draw_path_scales(rates, x, None if layout.packing is None else images)
    branches = [layout.spread(branch) for branch in kept[:, :images].unbind()]
    pairs = iter(zip(branches[::2], branches[1::2], strict=True))
    return [next(pairs) if drops else None for drops in dropping]
