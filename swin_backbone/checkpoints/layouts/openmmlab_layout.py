"""OpenMMLab: mmsegmentation's and mmdetection's ``SwinTransformer``, and mmpretrain's V1 and V2.

Other names, the same tensors. mmpretrain's V1 is mmseg's; its V2 merges patches at the beginning
of a stage.
"""

from .layout import CLASSIFIER, MASK_TOKEN, RECOMPUTED, Layout, Tensors, swin_names
from .tensor_layouts import Windows, position_buffers

_PARTS = {"attn.": "attn.w_msa.", "mlp.fc1.": "ffn.layers.0.0.", "mlp.fc2.": "ffn.layers.1."}
_IGNORED = [
    (r"\.relative_position_index$|\.relative_coords_table$", RECOMPUTED),
    (r"^(head|norm)\.", CLASSIFIER),
    (r"^mask_token$", MASK_TOKEN),
]


def _buffers(tensors: Tensors, version: str, windows: Windows) -> Tensors:
    buffers = position_buffers(tensors, version, windows)
    return {key.replace(".attn.", ".attn.w_msa."): tensor for key, tensor in buffers.items()}


OPENMMLAB = Layout(
    name="mmseg/mmdet",
    names={"v1": swin_names("v1", final_norm=None, parts=_PARTS)},
    ignored=_IGNORED,
    buffers=_buffers,
)

MMPRETRAIN_V2 = Layout(
    name="mmpretrain",
    names={
        "v2": swin_names("v2", downsample="stages.{s+1}.downsample", final_norm=None, parts=_PARTS)
    },
    ignored=_IGNORED,
    buffers=_buffers,
)
