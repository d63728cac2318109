"""Swin Transformers of other libraries, block by block: each file knows one library's."""

from . import (
    openmmlab_blocks,
    original_blocks,
    timm_blocks,
    torchvision_blocks,
    transformers_layers,
)

REWRITES = (
    transformers_layers.REWRITE,
    timm_blocks.REWRITE,
    torchvision_blocks.REWRITE,
    openmmlab_blocks.REWRITE,
    original_blocks.REWRITE,
)
