"""RoI align in plain operators, which define it (Mask R-CNN, https://arxiv.org/abs/1703.06870).

Samples of a bin lie on a grid, and each mixes the pixels around it: rows and columns are
independent. A region is therefore two small matrices, and pooling multiplies a map by both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def pool_regions(
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Region by region; arguments and result are those of :func:`swin_backbone.ops.roi_align`."""
    dtype = torch.promote_types(maps[0].dtype, torch.float32)
    # Once for all regions, so that gradients of those that overlap are added up in this dtype.
    wide = [one.to(dtype) for one in maps]
    pooled = []
    for (image, *box), level in zip(rois.tolist(), levels.tolist(), strict=True):
        x1, y1, x2, y2 = (side * scales[level] - 0.5 * aligned for side in box)
        found = wide[level][int(image)]
        rows = _parts(y1, y2, size[0], found.shape[1], sampling_ratio, aligned).to(found)
        columns = _parts(x1, x2, size[1], found.shape[2], sampling_ratio, aligned).to(found)
        pooled.append(rows @ found @ columns.T)
    if not pooled:
        return maps[0].new_zeros((0, maps[0].shape[1], *size)) + 0 * sum(x.sum() for x in maps)
    return torch.stack(pooled).to(maps[0].dtype)


def _parts(
    start: float, end: float, bins: int, pixels: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """(bins, pixels): what the mean of a bin's samples has of each pixel."""
    length = end - start if aligned else max(end - start, 1.0)
    samples = sampling_ratio or math.ceil(length / bins)
    parts = torch.zeros(bins, pixels, dtype=torch.float64, device="cpu")
    for number in range(bins):
        for sample in range(samples):
            place = start + (number + (sample + 0.5) / samples) * length / bins
            if -1 <= place <= pixels:
                place = min(max(place, 0), pixels - 1)
                distance = (torch.arange(pixels, dtype=torch.float64, device="cpu") - place).abs()
                parts[number] += (1 - distance).clamp(min=0) / samples
    return parts
