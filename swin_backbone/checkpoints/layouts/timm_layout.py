"""timm's ``SwinTransformer`` and ``SwinTransformerV2``, whole or as ``features_only``.

Named as the original, but patches are merged at the beginning of a stage. timm before 0.9 had the
original's names, and is read as the original.
"""

from .layout import CLASSIFIER, RECOMPUTED, Layout, swin_names
from .tensor_layouts import merging_to_ours, merging_to_theirs

TIMM = Layout(
    name="timm",
    names={
        version: swin_names(
            version,
            patch_embed="patch_embed.proj",
            block="layers.{s}.blocks.{b}",
            downsample="layers.{s+1}.downsample",
            position=None,
            output_norm=None,
        )
        for version in ("v1", "v2")
    },
    ignored=[
        (r"\.relative_position_index$|\.relative_coords_table$|\.attn_mask$", RECOMPUTED),
        (r"^head\.", CLASSIFIER),
    ],
    aliases=[(r"^layers_(\d+)\.", r"layers.\1.")],
    to_ours=merging_to_ours,
    to_theirs=merging_to_theirs,
)
