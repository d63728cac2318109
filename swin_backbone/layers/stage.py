"""One stage: blocks of one resolution, and the step to the next."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ..ops import Packing
from .norm import apply_norm, apply_norm_beside


class SwinStage(nn.Module):
    """Blocks in sequence, then patch merging.

    Args:
        blocks: the blocks, regular and shifted windows in turn.
        downsample: patch merging to the next stage; ``None`` in the last.
    """

    def __init__(self, blocks: Iterable[nn.Module], downsample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(
        self,
        x: Tensor,
        valid_sizes: Tensor | None = None,
        packing: Packing | None = None,
        norm: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the stage.

        Args:
            x: (B, H, W, C), or with ``packing`` (T, C), as are then the maps returned.
            valid_sizes: (B, 2) rows and columns that belong to each image, or ``None`` for all.
            packing: where the tokens of each image lie.
            norm: of the stage's own map, not of what the next stage gets; ``None`` for no norm.

        Returns:
            The stage's own map (B, H, W, C), which only ``norm`` clears outside ``valid_sizes``,
            and the next stage's input (the map before its norm where there is no next stage).
        """
        for block in self.blocks:
            x = block(x, valid_sizes, packing)
        if self.downsample is None:
            return x if norm is None else apply_norm(norm, x, valid_sizes), x
        features = x
        if norm is not None:
            features, x = apply_norm_beside(norm, x, valid_sizes)
        return features, self.downsample(x, packing, valid_sizes)
