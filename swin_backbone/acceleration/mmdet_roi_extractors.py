"""Features of regions from all levels of a pyramid at once, on a GPU.

mmdet asks the device level by level which regions lie there, and waits for the answer; its RoI
align copies maps to contiguous memory and adds gradients up atomically. Under autocast it also
rounds boxes to 16 bits, 8 pixels at 1,344 in bfloat16: here they stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods

FILE = "mmdet.models.roi_heads.roi_extractors.single_level_roi_extractor"


def _stock() -> type | None:
    return imported(FILE, "SingleRoIExtractor")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(extractor: nn.Module) -> str | None:
    reason = own_methods(extractor, ("forward", "map_roi_levels", "roi_rescale"), _stock())
    if reason is not None:
        return reason
    layers = extractor.roi_layers
    stock = imported("mmcv.ops.roi_align", "RoIAlign")
    if not all(type(layer) is stock and layer.pool_mode == "avg" for layer in layers):
        return f"its layers are {type(layers[0]).__name__}, and no RoIAlign that takes means"
    if len({(_pair(x.output_size), x.sampling_ratio, x.aligned) for x in layers}) > 1:
        return "its layers differ in more than their scale"
    return None


def _pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def apply(extractor: nn.Module) -> Undo:
    return replace_methods(extractor, {"forward": forward})


def forward(
    extractor: nn.Module,
    feats: Sequence[Tensor],
    rois: Tensor,
    roi_scale_factor: float | None = None,
) -> Tensor:
    """``SingleRoIExtractor.forward``."""
    layer = extractor.roi_layers[0]
    size = _pair(layer.output_size)
    if (
        torch.jit.is_tracing()
        or len({x.dtype for x in feats}) > 1
        or ops.dispatch.roi_align(feats, rois, size) != "triton"
    ):
        return type(extractor).forward(extractor, feats, rois, roi_scale_factor)
    rois = rois.float()
    levels = extractor.map_roi_levels(rois, len(feats))
    if roi_scale_factor is not None and len(feats) > 1:
        rois = extractor.roi_rescale(rois, roi_scale_factor)
    scales = [each.spatial_scale for each in extractor.roi_layers[: len(feats)]]
    return ops.roi_align(
        feats, rois, levels, scales, size,
        sampling_ratio=layer.sampling_ratio, aligned=layer.aligned,
    )  # fmt: skip


REWRITE = Rewrite(
    "roi_extractors",
    "regions of all levels at once, gathered back",
    finds,
    why_not,
    apply,
)
