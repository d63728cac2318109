"""transformers' Swin and Swinv2: files as on the hub, and modules as transformers 5 names them.

Its MaskFormer has a Swin of its own, under ``model.``, and beside it the output norms, as a list
with a norm for every stage. Its Donut has the names of its Swin.
"""

import re

from .layout import CLASSIFIER, MASK_TOKEN, RECOMPUTED, Layout, swin_names
from .tensor_layouts import join_qkv, merging_to_ours, merging_to_theirs, split_qkv

_PARTS = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.proj.": "attention.output.dense.",
    "attn.cpb_mlp.": "attention.self.continuous_position_bias_mlp.",
    "attn.": "attention.self.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}


def _norm_of_stage(found: re.Match) -> str:
    return f"hidden_states_norms.stage{int(found[1]) + 1}."


_QKV = {f"attn.{part}.{{p}}": f"attention.self.{part}.{{p}}" for part in ("query", "key", "value")}

TRANSFORMERS = Layout(
    name="transformers",
    names={
        version: swin_names(
            version,
            patch_embed="embeddings.patch_embeddings.projection",
            patch_norm="embeddings.norm",
            block="encoder.layers.{s}.blocks.{b}",
            downsample="encoder.layers.{s}.downsample",
            position="embeddings.position_embeddings",
            output_norm="hidden_states_norms.stage{s+1}" if version == "v1" else None,
            final_norm="layernorm",
            parts=_PARTS,
            more=_QKV,
        )
        for version in ("v1", "v2")
    },
    ignored=[
        (r"relative_position_index$|relative_coords_table$", RECOMPUTED),
        (r"^(classifier|pooler)\.", CLASSIFIER),
        (r"embeddings\.mask_token$", MASK_TOKEN),
        (r"^decoder\.", "reconstructs pixels in pretraining"),
    ],
    aliases=[
        (r"^(swin|swinv2|model)\.", ""),
        (r"^hidden_states_norms\.(\d+)\.", _norm_of_stage),
        (r"\.attention\.q_proj\.", ".attention.self.query."),
        (r"\.attention\.k_proj\.", ".attention.self.key."),
        (r"\.attention\.v_proj\.", ".attention.self.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.attention\.relative_position_bias\.", ".attention.self."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ],
    to_ours=lambda tensors, version: merging_to_ours(join_qkv(tensors, version), version),
    to_theirs=lambda tensors, version: split_qkv(merging_to_theirs(tensors, version), version),
)
