"""Two steps of detectors whose sizes depend on the values: as operators of PyTorch, which a trace
keeps whole, and as what they become in an ONNX file.

Their results in PyTorch are mmcv's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: Score of a candidate that must not be kept; scores are above it, and ``NO_LEAST`` between both.
NEVER = -1.0
#: Least score where every candidate with a score may be kept.
NO_LEAST = -0.5


@torch.library.custom_op("swin_backbone_export::keep_best", mutates_args=())
def keep_best(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    least_score: float,
    iou_threshold: float,
    most: int,
) -> Tensor:
    """Indices of the best boxes, best first, none of which overlaps a better one of its group.

    Args:
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels.
        scores: (N,) float32.
        groups: (N,) int64: boxes of different groups, of classes or levels, never compete.
        least_score: what a score must exceed.
        iou_threshold: intersection over union above which the worse box goes.
        most: how many are kept at most.

    Returns:
        (kept,) int64.
    """
    from mmcv.ops import batched_nms

    known = (scores > least_score).nonzero()[:, 0]
    if len(known) == 0:
        return known
    nms = {"type": "nms", "iou_threshold": iou_threshold}
    _, kept = batched_nms(boxes[known], scores[known], groups[known], nms)
    return known[kept[:most]]


@keep_best.register_fake
def _(boxes, scores, groups, least_score, iou_threshold, most):
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


@torch.library.custom_op("swin_backbone_export::pool_regions", mutates_args=())
def pool_regions(
    maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    size: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoI align of each box on the level of the pyramid that it belongs to.

    Args:
        maps: (1, C, H_i, W_i) float32 of each level.
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels of the image.
        levels: (N,) int64, index into ``maps``.
        scales: of each level, its pixels per pixel of the image.
        size: rows and columns of the result.
        sampling_ratio: samples per cell and axis; 0 for as many as there are pixels.
        aligned: whether pixels' centres lie at half integers.

    Returns:
        (N, C, *size).
    """
    from mmcv.ops import roi_align

    regions = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], 1)
    pooled = boxes.new_zeros(len(boxes), maps[0].shape[1], *size)
    for level, (features, scale) in enumerate(zip(maps, scales, strict=True)):
        here = (levels == level).nonzero()[:, 0]
        if len(here):
            pooled[here] = roi_align(
                features, regions[here], tuple(size), scale, sampling_ratio, "avg", aligned
            )
    return pooled


@pool_regions.register_fake
def _(maps, boxes, levels, scales, size, sampling_ratio, aligned):
    return boxes.new_empty(boxes.shape[0], maps[0].shape[1], *size)


def onnx_translations() -> dict[Callable, Callable]:
    """What the operators become in ONNX, for ``torch.onnx.export``."""
    from onnxscript import opset18 as op

    def integers(*values: int):
        return op.Constant(value_ints=list(values))

    def where(condition):
        return op.Squeeze(op.NonZero(condition), integers(0))

    def onnx_keep_best(boxes, scores, groups, least_score, iou_threshold, most):
        known = where(op.Greater(scores, op.Constant(value_float=least_score)))
        boxes, scores = op.Gather(boxes, known), op.Gather(scores, known)
        # As mmcv does: every group lies beside the others. The zero is for where nothing is known.
        corners = op.Concat(
            op.Reshape(boxes, integers(-1)), op.Constant(value_floats=[0.0]), axis=0
        )
        side = op.Add(op.ReduceMax(corners, keepdims=0), op.Constant(value_float=1.0))
        offsets = op.Mul(op.Cast(op.Gather(groups, known), to=1), side)
        apart = op.Add(boxes, op.Unsqueeze(offsets, integers(1)))
        selected = op.NonMaxSuppression(
            op.Unsqueeze(apart, integers(0)),
            op.Unsqueeze(scores, integers(0, 1)),
            integers(most),
            op.Constant(value_floats=[iou_threshold]),
        )
        kept = op.Squeeze(op.Slice(selected, integers(2), integers(3), integers(1)), integers(1))
        # ONNX does not say in which order they come.
        _, order = op.TopK(op.Gather(scores, kept), op.Shape(kept), largest=1, sorted=1)
        return op.Gather(known, op.Gather(kept, order))

    def onnx_pool_regions(maps, boxes, levels, scales, size, sampling_ratio, aligned):
        mode = "half_pixel" if aligned else "output_half_pixel"
        found, parts = [], []
        for level, (features, scale) in enumerate(zip(maps, scales, strict=True)):
            here = where(op.Equal(levels, op.Constant(value_int=level)))
            part = op.RoiAlign(
                features,
                op.Gather(boxes, here),
                op.Mul(here, integers(0)),  # the first image of the batch
                coordinate_transformation_mode=mode,
                mode="avg",
                output_height=size[0],
                output_width=size[1],
                sampling_ratio=sampling_ratio,
                spatial_scale=scale,
            )
            found.append(here)
            parts.append(part)
        order = op.Concat(*found, axis=0)
        places = op.Range(
            op.Constant(value_int=0), op.Squeeze(op.Shape(order)), op.Constant(value_int=1)
        )
        back = op.ScatterElements(order, order, places, axis=0)
        return op.Gather(op.Concat(*parts, axis=0), back)

    operators = torch.ops.swin_backbone_export
    return {
        operators.keep_best.default: onnx_keep_best,
        operators.pool_regions.default: onnx_pool_regions,
    }
