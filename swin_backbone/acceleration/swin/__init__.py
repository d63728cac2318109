"""Swin Transformers of other libraries, block by block: each file knows one library's."""

from . import (
    encoder_norms,
    openmmlab_blocks,
    original_blocks,
    patch_embeddings,
    patch_mergings,
    timm_blocks,
    torchvision_blocks,
    transformers_layers,
    transformers_stages,
)

REWRITES = (
    transformers_layers.REWRITE,
    timm_blocks.REWRITE,
    torchvision_blocks.REWRITE,
    openmmlab_blocks.REWRITE,
    original_blocks.REWRITE,
    patch_mergings.REWRITE,
    patch_embeddings.REWRITE,
    transformers_stages.REWRITE,
    encoder_norms.REWRITE,
)
