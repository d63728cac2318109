"""DINO as one function from an image to boxes.

mmdet asks tensors for the sizes of the maps; here they stay symbols.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...ops.reference.deformable_attention_reference import by_grid_sample
from .dense_candidates import pyramid

Sizes = Sequence[tuple[int, int]]


class TracedDeformableAttention(nn.Module):
    """mmcv's ``MultiScaleDeformableAttention`` of one image, with the sizes of the maps as numbers.

    Args:
        attention: mmcv's.
    """

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.num_heads, self.num_levels = attention.num_heads, attention.num_levels
        self.num_points = attention.num_points
        self.sampling_offsets = attention.sampling_offsets
        self.attention_weights = attention.attention_weights
        self.value_proj, self.output_proj = attention.value_proj, attention.output_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        reference_points: Tensor,
        spatial_shapes: Sizes,
        **others,
    ) -> Tensor:
        """As mmcv's, with ``spatial_shapes`` as height and width of each level."""
        identity = query if identity is None else identity
        value = query if value is None else value
        query = query if query_pos is None else query + query_pos
        batch, queries = query.shape[:2]
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(value)
        value = value.view(batch, value.shape[1], heads, -1)
        offsets = self.sampling_offsets(query).view(batch, queries, heads, levels, points, 2)
        weights = self.attention_weights(query).view(batch, queries, heads, -1).softmax(-1)
        weights = weights.view(batch, queries, heads, levels, points)
        places = reference_points[:, :, None, :, None]
        if reference_points.shape[-1] == 2:
            sides = torch.stack([_pair(width, height, query) for height, width in spatial_shapes])
            places = places + offsets / sides[:, None]
        else:
            places = places[..., :2] + offsets / points * places[..., 2:] * 0.5
        return self.output_proj(by_grid_sample(value, spatial_shapes, places, weights)) + identity


class TracedSinePositions(nn.Module):
    """mmdet's ``SinePositionalEncoding`` of an image without padding, where the last row and
    column are known without being looked for.

    Args:
        encoding: mmdet's.
    """

    def __init__(self, encoding: nn.Module):
        super().__init__()
        self.num_feats, self.temperature = encoding.num_feats, encoding.temperature
        self.normalize, self.scale = encoding.normalize, encoding.scale
        self.eps, self.offset = encoding.eps, encoding.offset

    def forward(self, mask: None, input: Tensor) -> Tensor:
        """(1, C, H, W) to (1, 2 * num_feats, H, W): sines and cosines of the row, then of the
        column."""
        height, width = input.shape[2:]
        rows = self._waves(height, input)[:, :, None].expand(-1, -1, width)
        columns = self._waves(width, input)[:, None, :].expand(-1, height, -1)
        return torch.cat([rows, columns])[None]

    def _waves(self, count: int, like: Tensor) -> Tensor:
        """(num_feats, count)."""
        place = torch.arange(count, device=like.device).to(like.dtype) + 1
        if self.normalize:
            place = (place + self.offset) / (count + self.eps) * self.scale
        number = torch.arange(self.num_feats, device=like.device).to(like.dtype)
        angles = place / (self.temperature ** (2 * (number // 2) / self.num_feats))[:, None]
        return torch.where((number % 2 == 0)[:, None], angles.sin(), angles.cos())


def _pair(first: int, second: int, like: Tensor) -> Tensor:
    """(2,) of numbers that may be symbols."""
    return torch.cat([like.new_ones(1) * first, like.new_ones(1) * second])


class DinoDetections(nn.Module):
    """What ``predict`` of mmdet's ``DINO`` finds in an image as the network sees it.

    Args:
        detector: mmdet's.

    Raises:
        ValueError: if a setting is one that the exported file would not follow.
    """

    def __init__(self, detector: nn.Module):
        super().__init__()
        if not detector.bbox_head.loss_cls.use_sigmoid:
            raise ValueError("bbox_head must score by the sigmoid to be exported")
        divisor = detector.data_preprocessor.pad_size_divisor
        if divisor != 1:
            raise ValueError(f"pad_size_divisor of a DINO must be 1 to be exported, got {divisor}")
        attentions = [layer.self_attn for layer in detector.encoder.layers]
        attentions += [layer.cross_attn for layer in detector.decoder.layers]
        if not all(attention.batch_first for attention in attentions):
            raise ValueError("deformable attention must be batch_first to be exported")
        self.backbone, self.neck = detector.backbone, detector.neck
        self.encoder, self.decoder = detector.encoder, detector.decoder
        self.positional_encoding = detector.positional_encoding
        self.level_embed, self.query_embedding = detector.level_embed, detector.query_embedding
        self.memory_trans_fc = detector.memory_trans_fc
        self.memory_trans_norm = detector.memory_trans_norm
        self.bbox_head = detector.bbox_head
        self.most = detector.bbox_head.test_cfg.get("max_per_img", detector.num_queries)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, H, W) normalised to boxes (N, 4), scores (N,) and labels (N,), best first."""
        maps = pyramid(self, images, 1)
        sizes = [tuple(level.shape[2:]) for level in maps]
        memory = self._encode(maps, sizes)
        query, boxes = self._choose(memory, sizes)
        query, boxes = self._decode(memory, sizes, query, boxes)
        last = self.decoder.num_layers - 1
        logits = self.bbox_head.cls_branches[last](query)[0]
        height, width = images.shape[2:]
        classes = logits.shape[1]
        count = torch.sym_min(self.most, logits.shape[0] * classes)
        scores, index = logits.sigmoid().reshape(-1).topk(count)
        centre, sides = boxes[0][torch.div(index, classes, rounding_mode="floor")].split(2, dim=1)
        corners = torch.cat([centre - 0.5 * sides, centre + 0.5 * sides], dim=1)
        x, y = (
            (corners[:, 0::2] * width).clamp(0, width),
            (corners[:, 1::2] * height).clamp(0, height),
        )
        return torch.stack([x, y], dim=2).flatten(1), scores, index % classes

    def _encode(self, maps: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """(1, keys, channels)."""
        features, positions, centres = [], [], []
        for level, (features_of_level, (height, width)) in enumerate(zip(maps, sizes, strict=True)):
            position = self.positional_encoding(None, input=features_of_level)
            features.append(features_of_level.flatten(2).transpose(1, 2))
            positions.append(position.flatten(2).transpose(1, 2) + self.level_embed[level])
            centres.append(_centres(height, width, features_of_level))
        query, positions = torch.cat(features, 1), torch.cat(positions, 1)
        centres = torch.cat(centres)[None, :, None].expand(-1, -1, len(sizes), -1)
        for layer in self.encoder.layers:
            query = layer(
                query,
                query_pos=positions,
                key_padding_mask=None,
                reference_points=centres,
                spatial_shapes=sizes,
            )
        return query

    def _choose(self, memory: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """The decoder's queries (1, queries, channels), and their boxes (1, queries, 4) as centres
        and sides from 0 to 1."""
        proposals = []
        for level, (height, width) in enumerate(sizes):
            centres = _centres(height, width, memory)
            proposals.append(torch.cat([centres, torch.full_like(centres, 0.05 * 2.0**level)], 1))
        proposals = torch.cat(proposals)[None]
        valid = ((proposals > 0.01) & (proposals < 0.99)).all(-1, keepdim=True)
        proposals = torch.where(valid, torch.log(proposals / (1 - proposals)), torch.inf)
        memory = self.memory_trans_norm(self.memory_trans_fc(torch.where(valid, memory, 0.0)))
        after_last = self.decoder.num_layers
        scores = self.bbox_head.cls_branches[after_last](memory).amax(-1)
        boxes = self.bbox_head.reg_branches[after_last](memory) + proposals
        # As many queries as there are; mmdet fails on images with fewer keys.
        count = torch.sym_min(self.query_embedding.num_embeddings, scores.shape[1])
        index = scores.topk(count, dim=1)[1]
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4)).sigmoid()
        return self.query_embedding.weight[None, :count], boxes

    def _decode(
        self, memory: Tensor, sizes: Sizes, query: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Queries after the last layer, normed, and the boxes that they give."""
        from mmdet.models.layers import coordinate_to_encoding, inverse_sigmoid

        decoder, branches = self.decoder, self.bbox_head.reg_branches
        last = decoder.num_layers - 1
        for number, layer in enumerate(decoder.layers):
            encoding = coordinate_to_encoding(boxes, num_feats=query.shape[2])
            query = layer(
                query,
                query_pos=decoder.ref_point_head(encoding),
                value=memory,
                key_padding_mask=None,
                self_attn_mask=None,
                reference_points=boxes[:, :, None].expand(-1, -1, len(sizes), -1),
                spatial_shapes=sizes,
            )
            # The head reads the boxes of the last layer from the normed queries, the layers do not.
            seen, least = (decoder.norm(query), 1e-5) if number == last else (query, 1e-3)
            boxes = (branches[number](seen) + inverse_sigmoid(boxes, eps=least)).sigmoid()
        return seen, boxes


def _centres(height: int, width: int, like: Tensor) -> Tensor:
    """(height * width, 2): x and y of each pixel's centre, from 0 to 1."""
    y = (torch.arange(height, device=like.device).to(like.dtype) + 0.5) / height
    x = (torch.arange(width, device=like.device).to(like.dtype) + 0.5) / width
    x, y = x[None, :].expand(height, -1), y[:, None].expand(-1, width)
    return torch.stack([x, y], dim=2).flatten(0, 1)


def dino_replacements() -> dict:
    """Stand-ins for modules of DINO, by their type."""
    from mmcv.ops import MultiScaleDeformableAttention
    from mmdet.models.layers import SinePositionalEncoding

    return {
        MultiScaleDeformableAttention: TracedDeformableAttention,
        SinePositionalEncoding: TracedSinePositions,
    }
