"""Modules: one idea a file, parameters and the calls of :mod:`swin_backbone.ops`."""

from ..ops.resized_embedding import resize_position_embedding
from .apply_norm import apply_norm, apply_norm_beside
from .block import SwinBlock
from .block_v2 import SwinBlockV2
from .continuous_position_bias import ContinuousPositionBias
from .drop_path import DropPath
from .mlp import Mlp
from .patch_embed import PatchEmbed
from .patch_merging import PatchMerging, PatchMergingV2
from .position_embedding import embed_valid_areas
from .qkv_projection import AttentionCall
from .stage import SwinStage
from .window_attention import WindowAttention
from .window_attention_v2 import WindowAttentionV2

__all__ = [
    "AttentionCall",
    "ContinuousPositionBias",
    "DropPath",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "PatchMergingV2",
    "SwinBlock",
    "SwinBlockV2",
    "SwinStage",
    "WindowAttention",
    "WindowAttentionV2",
    "apply_norm",
    "apply_norm_beside",
    "embed_valid_areas",
    "resize_position_embedding",
]
