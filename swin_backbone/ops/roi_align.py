"""Regions of a pyramid of maps, pooled to one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import dispatch, triton
from .argument_checks import FINITE, Each, Flag, Integer, Pair, check_choice, check_tensor
from .reference.roi_align_reference import pool_regions

#: What computes it; see :func:`roi_align`.
ROI_ALIGN = ("auto", "reference", "triton")
_SIZE, _SAMPLES, _FLAG, _SCALES = Pair(), Integer(0), Flag(), Each(FINITE, "finite numbers")


def roi_align(
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    size: int | tuple[int, int],
    *,
    sampling_ratio: int = 0,
    aligned: bool = True,
    impl: str = "auto",
) -> Tensor:
    """RoI align (Mask R-CNN, https://arxiv.org/abs/1703.06870, section 3) of several maps at once.

    What ``torchvision.ops.roi_align`` gives of each region's map. The gradient of a map is
    gathered: each pixel sums what its regions give it, in a fixed order, and nothing waits for the
    device to learn which regions lie in which map. Arithmetic is float32.

    Args:
        maps: (B, C, h_i, w_i) of one dtype; channels-last needs no copy.
        rois: (K, 5), index into the batch and x1, y1, x2, y2.
        levels: (K,), integers, the map that a region is cut out of.
        scales: of each map: the size of a pixel of the boxes, in its own pixels.
        size: rows and columns of the result.
        sampling_ratio: samples of a bin along each axis; 0 for as many as it has pixels.
        aligned: whether pixel centres lie at half integers.
        impl: ``'reference'``, plain PyTorch, region by region, which defines it; ``'triton'``,
            kernels; ``'auto'``, the fastest one that can run.

    Returns:
        (K, C, rows, columns), in the maps' dtype; by kernels channels-last.

    Raises:
        ValueError: for other shapes and values, or an ``impl`` that there is not or that cannot
            run.
        TypeError: for other types and dtypes.
    """
    size = _SIZE("size", size)
    sampling_ratio = _SAMPLES("sampling_ratio", sampling_ratio)
    aligned = _FLAG("aligned", aligned)
    scales = _SCALES("scales", scales)
    check(maps, rois, levels, scales)
    check_choice("impl", impl, ROI_ALIGN)
    if impl == "auto":
        impl = dispatch.roi_align(maps, rois, size)
    elif impl == "triton":
        reason = dispatch.why_not_regions(maps, rois, size)
        if reason is not None:
            raise ValueError(f"impl 'triton' cannot run: {reason}")
    if impl == "reference":
        return pool_regions(maps, rois, levels, scales, size, sampling_ratio, aligned)
    op = triton.roi_align_op
    return op.roi_align(
        [x.contiguous(memory_format=torch.channels_last) for x in maps],
        rois.detach().float().contiguous(),
        levels.int().contiguous(),
        scales,
        op.Pooling(size, sampling_ratio, aligned),
    )


def check(maps: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: tuple[float, ...]) -> None:
    """Raise what :func:`roi_align` says of the tensors."""
    if len(maps) == 0 or len(maps) != len(scales):
        raise ValueError(f"maps and scales must be as many, from 1, got {len(maps)}, {len(scales)}")
    first = maps[0]
    for x in maps:
        check_tensor("each of maps", x)
        if x.dim() != 4 or x.shape[:2] != first.shape[:2] or 0 in x.shape[1:]:
            raise ValueError(
                f"maps must be (B, C, h, w) of one B and C, got {[tuple(x.shape) for x in maps]}"
            )
        if not x.is_floating_point() or x.dtype != first.dtype:
            raise TypeError(f"maps must be floating point of one dtype, got {x.dtype}")
    check_tensor("rois", rois)
    check_tensor("levels", levels)
    if rois.dim() != 2 or rois.shape[1] != 5 or not rois.is_floating_point():
        raise ValueError(f"rois must be floats (K, 5), got {rois.dtype} {tuple(rois.shape)}")
    if levels.is_floating_point() or levels.dtype == torch.bool:
        raise TypeError(f"levels must be integers, got {levels.dtype}")
    if tuple(levels.shape) != (len(rois),):
        raise ValueError(f"levels must be ({len(rois)},), got {tuple(levels.shape)}")
    for name, tensor in (("rois", rois), ("levels", levels), *(("maps", x) for x in maps)):
        if tensor.device != first.device:
            raise ValueError(f"{name} must lie on {first.device}, got {tensor.device}")
