"""mmdet's pixel decoder of Mask2Former, whose sizes stay on the host.

The stock one moves the sizes of its maps to the device and asks for them there again, to split and
to reshape: a wait for each. Here they are numbers, and the table of them that attention reads is
moved once for each size of image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mmdet_positional_encodings import without_padding
from .recent_values import RecentValues
from .rewrite import Rewrite, Undo, imported, is_of, own_method, replace_methods

#: Tables of the sizes of images that were asked for last.
_kept = RecentValues(64)


def _stock() -> type | None:
    return imported("mmdet.models.layers.msdeformattn_pixel_decoder", "MSDeformAttnPixelDecoder")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(decoder: nn.Module) -> str | None:
    if not all(isinstance(stride, int) for stride in decoder.strides):
        return "its strides are not whole numbers"
    return own_method(decoder, "forward", _stock())


def apply(decoder: nn.Module) -> Undo:
    return replace_methods(decoder, {"forward": forward})


def forward(decoder: nn.Module, feats: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """``MSDeformAttnPixelDecoder.forward``: features of masks, and maps from coarse to fine."""
    if torch.jit.is_tracing():
        return type(decoder).forward(decoder, feats)
    coarse = range(decoder.num_input_levels - 1, -1, -1)[: decoder.num_encoder_levels]
    sizes = [tuple(feats[level].shape[-2:]) for level in coarse]
    outs = _encoded(decoder, [feats[level] for level in coarse], sizes, coarse)
    for level in range(decoder.num_input_levels - decoder.num_encoder_levels - 1, -1, -1):
        lateral = decoder.lateral_convs[level](feats[level])
        size = lateral.shape[-2:]
        resized = functional.interpolate(outs[-1], size=size, mode="bilinear", align_corners=False)
        outs.append(decoder.output_convs[level](lateral + resized))
    return decoder.mask_feature(outs[-1]), outs[: decoder.num_outs]


def _encoded(
    decoder: nn.Module, maps: Sequence[Tensor], sizes: Sequence[tuple], levels: Sequence[int]
) -> list[Tensor]:
    """Maps (B, C, h, w) after the encoder."""
    tokens, embeddings, references = [], [], []
    for place, (one, size, level) in enumerate(zip(maps, sizes, levels, strict=True)):
        blank = one.new_zeros((len(one), *size), dtype=torch.bool)
        own = decoder.level_encoding.weight[place].view(1, -1, 1, 1)
        with without_padding(decoder.postional_encoding):
            positions = decoder.postional_encoding(blank)
        embeddings.append((own + positions).flatten(2).permute(0, 2, 1))
        tokens.append(decoder.input_convs[place](one).flatten(2).permute(0, 2, 1))
        points = decoder.point_generator.single_level_grid_priors(size, level, device=one.device)
        stride = decoder.strides[level]
        x, y = points[:, 0] / (size[1] * stride), points[:, 1] / (size[0] * stride)
        references.append(torch.stack([x, y], 1))
    tokens = torch.cat(tokens, 1)
    shapes, starts = _tables(decoder, sizes, tokens.device)
    references = torch.cat(references)[None, :, None].repeat(len(tokens), 1, len(sizes), 1)
    memory = decoder.encoder(
        query=tokens,
        query_pos=torch.cat(embeddings, 1),
        key_padding_mask=tokens.new_zeros(tokens.shape[:2], dtype=torch.bool),
        spatial_shapes=shapes,
        reference_points=references,
        level_start_index=starts,
        valid_ratios=references.new_ones((len(tokens), len(sizes), 2)),
    )
    parts = memory.permute(0, 2, 1).split([rows * columns for rows, columns in sizes], dim=-1)
    return [part.reshape(*part.shape[:2], *size) for part, size in zip(parts, sizes, strict=True)]


def _tables(decoder: nn.Module, sizes: Sequence[tuple], device: torch.device):
    """Sizes (levels, 2), and where each level begins (levels,), on the device."""
    key = (*sizes, device)
    found = _kept.get(decoder, key)
    if found is None:
        shapes = torch.tensor(sizes, device="cpu")
        starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
        found = shapes.to(device), starts.to(device)
        _kept.keep(decoder, key, found)
    return found


REWRITE = Rewrite("pixel_decoders", "sizes of maps stay on the host", finds, why_not, apply)
