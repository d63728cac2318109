"""Masks of objects, from the grid within each box to the pixels of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Masks as mmdet pastes them: bilinearly, cells of a mask filling its box.

    Args:
        masks: (N, rows, columns) probabilities.
        boxes: (N, 4) x1, y1, x2, y2 in pixels.
        size: height and width of the image.
        threshold: probability from which a pixel belongs to an object.

    Returns:
        (N, height, width) bool.
    """
    pasted = torch.zeros((len(boxes), *size), dtype=torch.bool, device="cpu")
    for mask, box, canvas in zip(masks, boxes.tolist(), pasted, strict=True):
        left, top, right, bottom = box
        x, columns = _pixels(left, right, size[1])
        y, rows = _pixels(top, bottom, size[0])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)
        values = F.grid_sample(mask[None, None], grid[None].to(mask.dtype), align_corners=False)
        canvas[rows, columns] = values[0, 0] >= threshold
    return pasted


def _pixels(begin: float, end: float, size: int) -> tuple[Tensor, slice]:
    """Places of the pixels in and beside a side of a box, from -1 to 1 within it, and which these
    pixels are; all in the middle of a side without length."""
    first, last = max(int(begin // 1) - 1, 0), min(int(-(-end // 1)) + 1, size)
    centres = torch.arange(first, max(last, first), dtype=torch.float32, device="cpu") + 0.5
    pixels = slice(first, first + len(centres))
    if end <= begin:
        return torch.zeros_like(centres), pixels
    return (centres - begin) / (end - begin) * 2 - 1, pixels
