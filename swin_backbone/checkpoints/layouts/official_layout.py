"""Microsoft's original repository, classification and dense prediction forks, and SimMIM's."""

from .layout import CLASSIFIER, MASK_TOKEN, RECOMPUTED, Layout, Tensors, swin_names
from .tensor_layouts import merging_to_ours, merging_to_theirs


def _to_ours(tensors: Tensors, version: str) -> Tensors:
    tensors = merging_to_ours(tensors, version)
    position = tensors.get("absolute_pos_embed")
    if position is not None and position.dim() == 4:  # (1, C, H, W) in the dense forks
        tensors["absolute_pos_embed"] = position.flatten(2).transpose(1, 2)
    return tensors


OFFICIAL = Layout(
    name="official",
    names={
        version: swin_names(
            version,
            patch_embed="patch_embed.proj",
            block="layers.{s}.blocks.{b}",
            downsample="layers.{s}.downsample",
        )
        for version in ("v1", "v2")
    },
    ignored=[
        (r"\.relative_position_index$|\.relative_coords_table$|\.attn_mask$", RECOMPUTED),
        (r"^head\.", CLASSIFIER),
        (r"^mask_token$", MASK_TOKEN),
    ],
    to_ours=_to_ours,
    to_theirs=merging_to_theirs,
)
