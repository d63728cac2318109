"""RoI pooling as mmcv defines it; torchvision's rounds the boxes to whole pixels first."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import at_least_float32


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoI pooling (Fast R-CNN, https://arxiv.org/abs/1504.08083, section 2.1): the largest value
    among the pixels that a bin touches.

    Args:
        input: (B, C, H, W).
        rois: (K, 5), index into the batch and x1, y1, x2, y2, the first and last pixels.
        output: (K, C, pooled_height, pooled_width), written; 0 for a bin outside of the map.
        argmax: int32, of the same shape, written: the pixel taken, ``row * W + column``, or -1.
        pooled_height: rows of the output.
        pooled_width: columns of the output.
        spatial_scale: size of a pixel of the boxes, in pixels of ``input``.
    """
    height, width = input.shape[2:]
    boxes = at_least_float32(rois)
    x1, y1 = boxes[:, 1] * spatial_scale, boxes[:, 2] * spatial_scale
    x2, y2 = (boxes[:, 3] + 1) * spatial_scale, (boxes[:, 4] + 1) * spatial_scale
    empty = (x2 <= x1) | (y2 <= y1)
    rows = _pixels(y1, y2, pooled_height, height)
    columns = _pixels(x1, x2, pooled_width, width)
    longest = torch.stack([count.amax(1) for _, count in (rows, columns)], dim=1).tolist()
    for index, (batch, (most_rows, most_columns)) in enumerate(
        zip(boxes[:, 0].long().tolist(), longest, strict=True)
    ):
        inside_y, y = _enumerate(rows, index, most_rows, height)
        inside_x, x = _enumerate(columns, index, most_columns, width)
        pixels = (y[:, None, :, None] * width + x[None, :, None, :]).flatten(2)
        values = input[batch].flatten(1)[:, pixels]  # (C, rows, columns, pixels of a bin)
        largest, place = values.max(-1)
        taken = pixels.expand_as(values).gather(-1, place[..., None])[..., 0]
        full = inside_y[:, None] & inside_x & ~empty[index]
        output[index] = torch.where(full, largest, torch.zeros_like(largest))
        argmax[index] = torch.where(full, taken, torch.full_like(taken, -1)).to(argmax.dtype)


def _pixels(start: Tensor, stop: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """First pixel and number of pixels (K, bins) that bins from start to stop (K,) touch."""
    length = ((stop - start) / bins)[:, None]
    number = torch.arange(bins, device=start.device)
    first = (number * length + start[:, None]).floor().clamp(0, size).long()
    last = ((number + 1) * length + start[:, None]).ceil().clamp(0, size).long()
    return first, (last - first).clamp(min=0)


def _enumerate(
    pixels: tuple[Tensor, Tensor], index: int, most: int, size: int
) -> tuple[Tensor, Tensor]:
    """Whether bins have pixels (bins,), and these (bins, most), the last of a bin repeated."""
    first, count = (part[index] for part in pixels)
    number = torch.arange(max(most, 1), device=first.device)
    chosen = first[:, None] + torch.minimum(number, (count[:, None] - 1).clamp(min=0))
    return count > 0, chosen.clamp(max=size - 1)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of :func:`roi_pool_forward` with respect to ``input``, written to ``grad_input``."""
    channels, height, width = grad_input.shape[1:]
    maps = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    pixels = maps[:, :, None, None] * (height * width) + argmax
    taken = argmax >= 0
    gradient = at_least_float32(grad_output.new_zeros(grad_input.numel()))
    gradient.index_add_(0, pixels[taken], grad_output[taken].to(gradient.dtype))
    grad_input.copy_(gradient.view_as(grad_input))
