"""RoI align of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .common import at_least_float32, gradients, write


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """RoI align (https://arxiv.org/abs/1703.06870, section 3) of boxes turned about their centre.

    Args:
        input: (B, C, H, W).
        rois: (K, 6), index into the batch, centre x and y, width, height, angle in radians.
        output: (K, C, pooled_height, pooled_width), written: the mean of a bin's samples.
        pooled_height: rows of the output.
        pooled_width: columns of the output.
        spatial_scale: size of a pixel of the boxes, in pixels of ``input``.
        sampling_ratio: samples of a bin on each axis; 0 for as many as it has pixels.
        aligned: whether pixel centres lie at half integers; else boxes have at least one pixel.
        clockwise: whether angles turn clockwise.
    """
    size = (pooled_height, pooled_width)
    output.copy_(_pool(input, rois, size, spatial_scale, sampling_ratio, aligned, clockwise))


def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Gradient of :func:`roi_align_rotated_forward` with respect to ``input``, written to
    ``grad_input``. It does not depend on the values of ``input``."""
    size = (pooled_height, pooled_width)

    def pool(features):
        return _pool(features, rois, size, spatial_scale, sampling_ratio, aligned, clockwise)

    features = grad_output.new_zeros(grad_input.shape)
    write([grad_input], gradients(pool, [features], grad_output))


def _pool(features, rois, size, scale, sampling_ratio, aligned, clockwise) -> Tensor:
    features, rois = at_least_float32(features), at_least_float32(rois)
    boxes = _on_the_map(rois, scale, aligned, clockwise)
    samples = _samples(boxes, size, sampling_ratio)
    pooled = features.new_zeros(len(rois), features.shape[1], *size)
    # Boxes of one image with the same number of samples go together.
    kinds = torch.cat([rois[:, :1].long(), samples], dim=1)
    for kind in kinds.unique(dim=0):
        (chosen,) = (kinds == kind).all(1).nonzero(as_tuple=True)
        image, rows, columns = kind.tolist()
        if rows * columns == 0:
            continue  # a box without area has no samples
        points = _sample_points(boxes[chosen], size, (rows, columns))
        values = _bilinear(features[image], points.flatten(0, -2))
        values = values.view(-1, len(chosen), *size, rows * columns).mean(-1)
        pooled = pooled.index_copy(0, chosen, values.transpose(0, 1))
    return pooled


def _on_the_map(rois: Tensor, scale: float, aligned: bool, clockwise: bool) -> Tensor:
    """Boxes (K, 5) in pixels of the map whose centres lie at integers, angles clockwise."""
    centre = rois[:, 1:3] * scale - (0.5 if aligned else 0)
    sides = rois[:, 3:5] * scale
    if not aligned:
        sides = sides.clamp(min=1)
    angle = rois[:, 5:] if clockwise else -rois[:, 5:]
    return torch.cat([centre, sides, angle], dim=1)


def _samples(boxes: Tensor, size: tuple[int, int], sampling_ratio: int) -> Tensor:
    """Rows and columns of samples in a bin, int64 (K, 2)."""
    if sampling_ratio > 0:
        return torch.full_like(boxes[:, :2], sampling_ratio, dtype=torch.long)
    return (boxes[:, 2:4].flip(1) / boxes.new_tensor(size)).ceil().long()


def _sample_points(boxes: Tensor, size: tuple[int, int], samples: tuple[int, int]) -> Tensor:
    """x and y of all samples, (K, *size, samples of a bin, 2)."""
    axes = []
    for bins, count in zip(size, samples, strict=True):
        steps = bins * count
        places = (torch.arange(steps, device=boxes.device, dtype=boxes.dtype) + 0.5) / steps - 0.5
        axes.append(places.view(bins, count))
    y = axes[0][:, None, :, None].expand(*size, *samples).reshape(*size, -1)
    x = axes[1][None, :, None, :].expand(*size, *samples).reshape(*size, -1)
    centre_x, centre_y, width, height, angle = (part[:, None, None, None] for part in boxes.T)
    x, y = x * width, y * height
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([centre_x + x * cos - y * sin, centre_y + x * sin + y * cos], dim=-1)


def _bilinear(image: Tensor, points: Tensor) -> Tensor:
    """(C, N) at points (N, 2); up to a pixel outside of the image (C, H, W) the border, then 0."""
    height, width = image.shape[1:]
    last = points.new_tensor([width - 1, height - 1])
    inside = ((points >= -1) & (points <= last + 1)).all(-1)
    grid = 2 * points / last.clamp(min=1) - 1
    values = functional.grid_sample(
        image[None],
        grid[None, None].to(image.dtype),
        padding_mode="border",
        align_corners=True,
    )
    return values[0, :, 0] * inside
