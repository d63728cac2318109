"""mmsegmentation's and mmdetection's ``SwinTransformer``: other names, the same tensors."""

from .base import CLASSIFIER, RECOMPUTED, Layout

OPENMMLAB = Layout(
    name="mmseg/mmdet",
    renames=[
        (r"\.attn\.w_msa\.", ".attn."),
        (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
        (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    ],
    ignored=[
        (r"\.relative_position_index$", RECOMPUTED),
        (r"^head\.", CLASSIFIER),
    ],
)
