"""Modules: one idea a file, parameters and the calls of :mod:`swin_backbone.ops`."""

from .block import SwinBlock
from .drop_path import DropPath
from .mlp import Mlp
from .norm import apply_norm
from .patch_embed import PatchEmbed
from .patch_merging import PatchMerging
from .position_embedding import resize_position_embedding
from .stage import SwinStage
from .window_attention import WindowAttention

__all__ = [
    "DropPath",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "SwinBlock",
    "SwinStage",
    "WindowAttention",
    "apply_norm",
    "resize_position_embedding",
]
