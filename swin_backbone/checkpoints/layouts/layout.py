"""What an adapter between somebody's checkpoint layout and ours consists of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from .name_templates import NameMap

Tensors = dict[str, Tensor]

RECOMPUTED = "computed from the window size when needed"
CLASSIFIER = "belongs to the classification head"
MASK_TOKEN = "stands for masked patches in pretraining"

#: Our names of what a block holds.
BLOCK_PARTS = {
    "v1": (
        "norm1.{p}",
        "attn.relative_position_bias_table",
        "attn.qkv.{p}",
        "attn.proj.{p}",
        "norm2.{p}",
        "mlp.fc1.{p}",
        "mlp.fc2.{p}",
    ),
    "v2": (
        "attn.logit_scale",
        "attn.q_bias",
        "attn.v_bias",
        "attn.cpb_mlp.{n}.{p}",
        "attn.qkv.{p}",
        "attn.proj.{p}",
        "norm1.{p}",
        "mlp.fc1.{p}",
        "mlp.fc2.{p}",
        "norm2.{p}",
        "norm3.{p}",
    ),
}

#: The norm that a classifier applies to the last stage; a backbone has norms of its own.
FINAL_NORM = "norm.{p}"
OUTPUT_NORM = "norm{s}.{p}"


class Layout(NamedTuple):
    """How one library names and orders the tensors of a Swin backbone.

    Attributes:
        name: how reports call it.
        names: for each version of Swin that it has, our names and theirs.
        ignored: (pattern, reason) pairs; keys that match hold nothing for the backbone.
        aliases: (pattern, replacement) pairs for :func:`re.sub`, where a replacement is a text or
            a function of the match: other spellings of their names.
        to_ours: tensors under our names, version -> the same with our contents.
        to_theirs: the way back.
        buffers: tensors under our names, version, windows -> what their modules keep beside
            parameters.
    """

    name: str
    names: Mapping[str, NameMap]
    ignored: Sequence[tuple[str, str]] = ()
    aliases: Sequence[tuple[str, str | Callable[[re.Match], str]]] = ()
    to_ours: Callable[[Tensors, str], Tensors] = lambda tensors, version: tensors
    to_theirs: Callable[[Tensors, str], Tensors] = lambda tensors, version: tensors
    buffers: Callable[[Tensors, str, object], Tensors] = lambda tensors, version, windows: {}

    def rename(self, key: str, version: str) -> str | None:
        """Our name for one of the layout's keys, or ``None`` if it is none of them."""
        for pattern, replacement in self.aliases:
            key = re.sub(pattern, replacement, key)
        return self.names[version].to_ours(key) if version in self.names else None

    def why_ignored(self, key: str) -> str | None:
        """Why a key of the layout is left out, or ``None`` if it is not."""
        for pattern, reason in self.ignored:
            if re.search(pattern, key):
                return reason
        return None


def swin_names(
    version: str,
    *,
    patch_embed: str = "patch_embed.projection",
    patch_norm: str = "patch_embed.norm",
    block: str = "stages.{s}.blocks.{b}",
    downsample: str = "stages.{s}.downsample",
    position: str | None = "absolute_pos_embed",
    output_norm: str | None = "norm{s}",
    final_norm: str | None = "norm",
    parts: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> NameMap:
    """Names of all parameters of a Swin backbone, from the few that libraries differ in.

    Args:
        version: ``'v1'`` or ``'v2'``.
        patch_embed: their name of the patch embedding's convolution.
        patch_norm: of its norm.
        block: of a block.
        downsample: of the patch merging behind stage ``{s}``.
        position: of the absolute position embedding; ``None`` if they have none.
        output_norm: of the norm of stage ``{s}``'s map; ``None`` if they have none.
        final_norm: of a classifier's norm of the last stage; ``None`` if they have none.
        parts: their name of a part of a block, by the beginning of ours.
        more: further parts of a block, ours and theirs.
    """
    pairs = {
        "patch_embed.projection.{p}": f"{patch_embed}.{{p}}",
        "patch_embed.norm.{p}": f"{patch_norm}.{{p}}",
        "stages.{s}.downsample.norm.{p}": f"{downsample}.norm.{{p}}",
        "stages.{s}.downsample.reduction.{p}": f"{downsample}.reduction.{{p}}",
    }
    if position is not None:
        pairs["absolute_pos_embed"] = position
    if output_norm is not None:
        pairs[OUTPUT_NORM] = f"{output_norm}.{{p}}"
    if final_norm is not None:
        pairs[FINAL_NORM] = f"{final_norm}.{{p}}"
    for part in BLOCK_PARTS[version]:
        theirs = next((new + part[len(old) :] for old, new in (parts or {}).items()
                       if part.startswith(old)), part)  # fmt: skip
        pairs[f"stages.{{s}}.blocks.{{b}}.{part}"] = f"{block}.{theirs}"
    for ours, theirs in (more or {}).items():
        pairs[f"stages.{{s}}.blocks.{{b}}.{ours}"] = f"{block}.{theirs}"
    return NameMap(pairs)
