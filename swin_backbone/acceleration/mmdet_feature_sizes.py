"""Sizes of feature maps that stay on the host, for mmdet's Deformable DETR and DINO.

The stock detector moves the sizes of its maps to the device and asks for them there again, for the
points of its encoder and for its proposals: twenty waits for four levels. Here a list goes with the
tensor, which is copied once for each size, and proposals that depend on sizes alone are kept. The
same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .recent_values import RecentValues, may_keep
from .rewrite import (
    Rewrite,
    Undo,
    all_of,
    imported,
    is_of,
    own_method,
    own_methods,
    replace_methods,
    with_globals,
)

#: Under which a tensor of sizes has them as numbers.
ON_HOST = "sizes_on_host"
DETECTOR_METHODS = ("pre_transformer", "gen_encoder_output_proposals")
POINTS = "get_encoder_reference_points"
#: What an encoder does between points and result.
LAYERS = "run_layers"
#: Proposals of the sizes of images, and tables of sizes, that were asked for last.
_kept, _tables = RecentValues(64), RecentValues(256)


def _stock_detector() -> type | None:
    return imported("mmdet.models.detectors.deformable_detr", "DeformableDETR")


def _stock_encoder() -> type | None:
    return imported(
        "mmdet.models.layers.transformer.deformable_detr_layers", "DeformableDetrTransformerEncoder"
    )


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock_detector())


def why_not(detector: nn.Module) -> str | None:
    reason = own_methods(detector, DETECTOR_METHODS, _stock_detector())
    if reason is not None:
        return reason
    if not is_of(detector.encoder, _stock_encoder()):
        return f"its encoder is a {type(detector.encoder).__name__}"
    reasons = (own_method(detector.encoder, name, _stock_encoder()) for name in (POINTS, "forward"))
    return next((reason for reason in reasons if reason is not None), None)


def apply(detector: nn.Module) -> Undo:
    undos = [
        replace_methods(
            detector,
            {
                "pre_transformer": pre_transformer,
                "gen_encoder_output_proposals": gen_encoder_output_proposals,
            },
        ),
        replace_methods(
            detector.encoder,
            {POINTS: get_encoder_reference_points, "forward": forward, LAYERS: run_layers},
        ),
    ]
    return all_of(undos)


def pre_transformer(detector: nn.Module, mlvl_feats: Sequence[Tensor], batch_data_samples=None):
    """``DeformableDETR.pre_transformer``."""
    stock = type(detector).pre_transformer
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return stock(detector, mlvl_feats, batch_data_samples)
    if may_keep(mlvl_feats):
        stock = with_globals(stock, torch=_WithKeptShapes(detector))
    found = stock(detector, mlvl_feats, batch_data_samples)
    sizes = [tuple(one.shape[-2:]) for one in mlvl_feats]
    for inputs in found:
        setattr(inputs["spatial_shapes"], ON_HOST, sizes)
    return found


class _WithKeptShapes:
    """``torch``, whose tables of shapes lie on their device already."""

    def __init__(self, owner: nn.Module):
        self._owner = owner

    def __getattr__(self, name: str):
        return getattr(torch, name)

    def _shape_as_tensor(self, one: Tensor) -> Tensor:
        key = (one.device, *one.shape)
        table = _tables.get(self._owner, key)
        if table is None:
            table = torch._shape_as_tensor(one).to(one.device)
            _tables.keep(self._owner, key, table)
        return table


def get_encoder_reference_points(
    encoder: nn.Module, spatial_shapes: Tensor, valid_ratios: Tensor, device
) -> Tensor:
    """``DeformableDetrTransformerEncoder.get_encoder_reference_points``."""
    sizes = getattr(spatial_shapes, ON_HOST, spatial_shapes)
    return type(encoder).get_encoder_reference_points(sizes, valid_ratios, device)


def forward(
    encoder: nn.Module,
    query: Tensor,
    query_pos: Tensor,
    key_padding_mask: Tensor | None,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    valid_ratios: Tensor,
    **kwargs,
) -> Tensor:
    """``DeformableDetrTransformerEncoder.forward``."""
    others = (query_pos, key_padding_mask, spatial_shapes, level_start_index, valid_ratios)
    if kwargs:
        return type(encoder).forward(encoder, query, *others, **kwargs)
    points = encoder.get_encoder_reference_points(spatial_shapes, valid_ratios, query.device)
    return encoder.run_layers(query, *others, points)


def run_layers(
    encoder: nn.Module,
    query: Tensor,
    query_pos: Tensor,
    key_padding_mask: Tensor | None,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    valid_ratios: Tensor,
    reference_points: Tensor,
) -> Tensor:
    """(B, K, C) after all layers."""
    for layer in encoder.layers:
        query = layer(
            query=query,
            query_pos=query_pos,
            key_padding_mask=key_padding_mask,
            spatial_shapes=spatial_shapes,
            level_start_index=level_start_index,
            valid_ratios=valid_ratios,
            reference_points=reference_points,
        )
    return query


def gen_encoder_output_proposals(
    detector: nn.Module, memory: Tensor, memory_mask: Tensor | None, spatial_shapes: Tensor
) -> tuple[Tensor, Tensor]:
    """``DeformableDETR.gen_encoder_output_proposals``."""
    sizes = getattr(spatial_shapes, ON_HOST, None)
    if sizes is None or memory_mask is not None or not may_keep([memory]):
        given = spatial_shapes if sizes is None else sizes
        return type(detector).gen_encoder_output_proposals(detector, memory, memory_mask, given)
    key = (memory.device, *sizes)
    found = _kept.get(detector, key)
    if found is None:
        found = _proposals(sizes, memory.device)
        _kept.keep(detector, key, found)
    proposals, is_outside = found
    memory = memory.masked_fill(is_outside, 0.0)
    memory = detector.memory_trans_norm(detector.memory_trans_fc(memory))
    return memory, proposals.expand(len(memory), -1, -1).clone()


def _proposals(sizes: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, K, 4): boxes in the middle of each pixel of all levels, before the sigmoid, infinite near
    the borders; (1, K, 1): which these are. In mmdet's steps."""
    found = []
    for level, (rows, columns) in enumerate(sizes):
        grid_y, grid_x = torch.meshgrid(
            *(torch.linspace(0, n - 1, n, device=device) for n in (rows, columns)), indexing="ij"
        )
        scale = torch.tensor([columns, rows], device=device)
        grid = (torch.stack([grid_x, grid_y], -1)[None] + 0.5) / scale
        sides = torch.ones_like(grid) * 0.05 * (2.0**level)
        found.append(torch.cat((grid, sides), -1).view(1, -1, 4))
    boxes = torch.cat(found, 1)
    inside = ((boxes > 0.01) & (boxes < 0.99)).sum(-1, keepdim=True) == 4
    boxes = torch.log(boxes / (1 - boxes)).masked_fill(~inside, float("inf"))
    return boxes, ~inside


REWRITE = Rewrite(
    "feature_sizes",
    "sizes of maps as numbers, so that nothing waits",
    finds,
    why_not,
    apply,
)
