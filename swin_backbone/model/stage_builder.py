"""The stages of a backbone, from its checked arguments: where Swin V1 and V2 differ in modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .block import SwinBlock
from .block_v2 import SwinBlockV2
from .patch_merging import PatchMerging, PatchMergingV2
from .stage import SwinStage
from .window_attention import WindowAttention
from .window_attention_v2 import WindowAttentionV2

VERSIONS = ("v1", "v2")


@dataclass(frozen=True)
class StageOptions:
    """What all stages of a backbone have in common; names and meanings are ``SwinBackbone``'s."""

    version: str
    mlp_ratio: float
    qkv_bias: bool
    qk_scale: float | None
    drop_rate: float
    attn_drop_rate: float
    norm_layer: Callable[[int], nn.Module]
    patch_norm_layer: Callable[[int], nn.Module] | None
    act_layer: Callable[[], nn.Module]
    with_cp: bool
    backend: str
    small_maps: str
    extra_norm_every_n_blocks: int


def build_stages(
    options: StageOptions,
    channels: Sequence[int],
    depths: Sequence[int],
    num_heads: Sequence[int],
    strides: Sequence[tuple[int, int]],
    drop_path_rate: float,
    window_sizes: Sequence[tuple[int, int]],
    pretrained_window_sizes: Sequence[tuple[int, int]],
) -> nn.ModuleList:
    """One :class:`SwinStage` per entry of ``channels``.

    Args:
        options: what they have in common.
        channels: channels of each stage.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        strides: strides of the patch embedding and of each patch merging.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0.
        window_sizes: windows of each stage.
        pretrained_window_sizes: windows that the coordinates of each stage are scaled to (V2).
    """
    rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu")
    drop_paths = iter(rates.tolist())
    merging = PatchMerging if options.version == "v1" else PatchMergingV2
    stages = nn.ModuleList()
    for stage, depth in enumerate(depths):
        blocks = [
            _build_block(
                options,
                index,
                channels[stage],
                num_heads[stage],
                next(drop_paths),
                window_sizes[stage],
                pretrained_window_sizes[stage],
            )
            for index in range(depth)
        ]
        downsample = None
        if stage < len(depths) - 1:
            downsample = merging(
                channels[stage], channels[stage + 1], strides[stage + 1], options.patch_norm_layer
            )
        stages.append(SwinStage(blocks, downsample))
    return stages


def _build_block(
    options, index, channels, num_heads, drop_path_rate, window_size, pretrained_window_size
):
    geometry = {
        "window_size": window_size,
        # Every other block shifts its windows by half a window.
        "shift_size": (window_size[0] // 2, window_size[1] // 2) if index % 2 else (0, 0),
        "qkv_bias": options.qkv_bias,
        "attn_drop_rate": options.attn_drop_rate,
        "proj_drop_rate": options.drop_rate,
        "backend": options.backend,
        "small_maps": options.small_maps,
    }
    common = {
        "embed_dims": channels,
        "hidden_dims": int(options.mlp_ratio * channels),
        "norm_layer": options.norm_layer,
        "act_layer": options.act_layer,
        "drop_rate": options.drop_rate,
        "drop_path_rate": drop_path_rate,
        "with_cp": options.with_cp,
    }
    if options.version == "v1":
        attention = WindowAttention(channels, num_heads, qk_scale=options.qk_scale, **geometry)
        return SwinBlock(attention, **common)
    attention = WindowAttentionV2(
        channels, num_heads, pretrained_window_size=pretrained_window_size, **geometry
    )
    every = options.extra_norm_every_n_blocks
    return SwinBlockV2(attention, **common, extra_norm=every > 0 and (index + 1) % every == 0)
