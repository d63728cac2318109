"""Modules: one idea a file, parameters and the calls of :mod:`swin_backbone.ops`."""

from .block import SwinBlock
from .drop_path import DropPath
from .mlp import Mlp
from .packing import Packing, join
from .patch_embed import PatchEmbed
from .patch_merging import PatchMerging
from .position_embedding import embed_valid_areas, resize_position_embedding
from .stage import SwinStage
from .valid_area import clear_padding, shrink_sizes, warn_of_missing_sizes
from .window_attention import WindowAttention

__all__ = [
    "DropPath",
    "Mlp",
    "Packing",
    "PatchEmbed",
    "PatchMerging",
    "SwinBlock",
    "SwinStage",
    "WindowAttention",
    "clear_padding",
    "embed_valid_areas",
    "join",
    "resize_position_embedding",
    "shrink_sizes",
    "warn_of_missing_sizes",
]
