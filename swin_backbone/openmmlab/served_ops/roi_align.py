"""RoI align, from torchvision."""

from __future__ import annotations

from torch import Tensor

from .common import UnsupportedOptionError, at_least_float32, torchvision_ops
from .torchvision_internals import roi_align_gradient


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoI align (Mask R-CNN, https://arxiv.org/abs/1703.06870, section 3), mean of the samples.

    Args:
        input: (B, C, H, W).
        rois: (K, 5), index into the batch and x1, y1, x2, y2.
        output: (K, C, aligned_height, aligned_width), written.
        argmax_y: for max pooling, not touched.
        argmax_x: for max pooling, not touched.
        aligned_height: rows of the output.
        aligned_width: columns of the output.
        spatial_scale: size of a pixel of the boxes, in pixels of ``input``.
        sampling_ratio: samples of a bin on each axis; 0 for as many as it has pixels.
        pool_mode: 1, the mean.
        aligned: whether pixel centres lie at half integers.

    Raises:
        UnsupportedOptionError: for max pooling, ``pool_mode=0``.
    """
    _refuse_max_pooling(pool_mode)
    size = (aligned_height, aligned_width)
    features = at_least_float32(input)
    pooled = torchvision_ops().roi_align(
        features, rois.to(features.dtype), size, spatial_scale, sampling_ratio, aligned
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of :func:`roi_align_forward` for ``input``, written to ``grad_input``."""
    _refuse_max_pooling(pool_mode)
    grad = at_least_float32(grad_output)
    gradient = roi_align_gradient(
        grad, rois.to(grad.dtype), grad_input.shape, spatial_scale, sampling_ratio, aligned
    )
    grad_input.copy_(gradient)


def _refuse_max_pooling(pool_mode: int) -> None:
    if pool_mode != 1:
        raise UnsupportedOptionError(
            "RoIAlign(pool_mode='max') needs mmcv's compiled ops; torchvision has pool_mode='avg'"
        )
