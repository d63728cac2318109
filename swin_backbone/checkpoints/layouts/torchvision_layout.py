"""torchvision's ``SwinTransformer``, V1 and V2."""

from .layout import CLASSIFIER, RECOMPUTED, Layout, Tensors, swin_names
from .tensor_layouts import (
    Windows,
    join_bias,
    merging_to_ours,
    merging_to_theirs,
    position_buffers,
    split_bias,
)

_BLOCK = "features.{2s+1}.{b}"


def _buffers(tensors: Tensors, version: str, windows: Windows) -> Tensors:
    buffers = {}
    for key, tensor in position_buffers(tensors, version, windows).items():
        _, stage, _, block, rest = key.split(".", 4)
        flat = tensor.flatten() if rest.endswith("index") else tensor
        buffers[f"features.{2 * int(stage) + 1}.{block}.{rest}"] = flat
    return buffers


TORCHVISION = Layout(
    name="torchvision",
    names={
        version: swin_names(
            version,
            patch_embed="features.0.0",
            patch_norm="features.0.2",
            block=_BLOCK,
            downsample="features.{2s+2}",
            position=None,
            output_norm=None,
            parts={"mlp.fc1.": "mlp.0.", "mlp.fc2.": "mlp.3."},
        )
        for version in ("v1", "v2")
    },
    ignored=[
        (r"\.relative_position_index$|\.relative_coords_table$", RECOMPUTED),
        (r"^head\.", CLASSIFIER),
    ],
    to_ours=lambda tensors, version: split_bias(merging_to_ours(tensors, version), version),
    to_theirs=lambda tensors, version: join_bias(merging_to_theirs(tensors, version), version),
    buffers=_buffers,
)
