"""One stage: blocks of one resolution, and the step to the next."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ..ops import MAPS, LowPrecisionCopies, TokenLayout, residual_blocks, takes_stages
from ..ops.geometry.token_layout import PathScales
from ..ops.torch_internals.constant_results import constant_in_a_graph
from .apply_norm import apply_norm, apply_norm_beside
from .block import SwinBlock
from .block_v2 import SwinBlockV2
from .checkpointed_block import CheckpointedBlock
from .drop_path import DropPath, sample_together
from .plain_modules import is_bare


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
        layout: TokenLayout = MAPS,
        norm: nn.Module | None = None,
        merge: bool = True,
        copies: LowPrecisionCopies | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the stage.

        Args:
            x: (B, H, W, C), or of variable length (T, C), as are then the maps returned.
            layout: where the tokens lie.
            norm: of the stage's own map, not of what the next stage gets; ``None`` for no norm.
            merge: whether the next stage is wanted.
            copies: of the blocks' weights, in the compute dtype.

        Returns:
            The stage's own map (B, H, W, C), which only ``norm`` clears outside the valid part,
            and the next stage's input (the map before its norm where no next stage is).
        """
        x = self._run_blocks(x, layout, copies)
        if self.downsample is None or not merge:
            return x if norm is None else apply_norm(norm, x, layout.valid_sizes), x
        features = x
        if norm is not None:
            features, x = apply_norm_beside(norm, x, layout.valid_sizes)
        return features, self.downsample(x, layout)

    def _run_blocks(
        self, x: Tensor, layout: TokenLayout, copies: LowPrecisionCopies | None
    ) -> Tensor:
        if takes_stages(layout) and self._is_plain():
            size = layout.map_size(x)
            done = residual_blocks(x, [block.as_arguments(size) for block in self.blocks], layout)
            if done is not None:
                return done
        for block, scales in zip(self.blocks, self._sample(x, layout), strict=True):
            x = block(x, layout.with_path_scales(scales), copies)
        return x

    # A compiler that reads all of this takes a second, and asks it again at each call.
    @constant_in_a_graph
    def _is_plain(self) -> bool:
        """Whether blocks do what their classes say; asked once a graph, as torch asks for hooks."""
        blocks = list(self.blocks)
        plain = all(_is_drawn_for(b) and type(b) is SwinBlock and not b.with_cp for b in blocks)
        parameters = [block.branch_parameters() for block in blocks] if plain else [None]
        if None in parameters:
            return False
        return len({own.qkv.bias is None for own in parameters}) == 1

    def _sample(self, x: Tensor, layout: TokenLayout) -> list[PathScales | None]:
        """Stochastic depth of all blocks; ``None`` for those that are left to draw their own."""
        if not self.training:
            return [None] * len(self.blocks)
        drawn = [block.drop_path if _is_drawn_for(block) else None for block in self.blocks]
        return sample_together(drawn, x, layout)


def _is_drawn_for(block: nn.Module) -> bool:
    """Whether ``block`` takes scales that were drawn for it, and drops as they say."""
    kind = type(block)  # sharding makes classes of its own
    computes = getattr(kind, "_forward", None) in (SwinBlock._forward, SwinBlockV2._forward)
    is_ours = computes and kind.forward is CheckpointedBlock.forward
    return is_ours and is_bare(block.drop_path, DropPath)
