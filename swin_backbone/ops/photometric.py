"""From bytes of a batch to what a model takes: photometric distortion and normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

from . import dispatch, triton
from .reference import photometric_reference

#: What is drawn for an image: what is added to all values; factor of contrast; whether contrast
#: comes before saturation and hue; whether saturation has a factor; it; whether hue is turned; by
#: how much, from 0 to 180, where it ends and begins.
DISTORTION = (
    "brightness",
    "contrast",
    "contrast_first",
    "saturates",
    "saturation",
    "turns",
    "hue",
)
IMPLEMENTATIONS = ("auto", "reference", "triton")


def distort_images(
    images: Tensor,
    drawn: Tensor | None = None,
    mean: Tensor | None = None,
    deviation: Tensor | None = None,
    swap: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Distort a batch of images as mmseg's ``PhotoMetricDistortion``, and normalise it.

    mmseg makes bytes of bytes after each of its steps, twice by way of hue and saturation, with
    OpenCV's rounding. The same steps with the same rounding are taken here.

    Args:
        images: (B, H, W, 3) uint8, blue first, contiguous.
        drawn: (B, 7) float32, a row an image as :data:`DISTORTION` names it, on the same device;
            ``None`` leaves colours as they are.
        mean: (3,) float32, of the result's channels; ``None``: nothing is taken away.
        deviation: (3,) float32, what the result is divided by, with ``mean``.
        swap: whether the result has red first.
        impl: ``'reference'``, ``'triton'``, or the better one.

    Returns:
        (B, 3, H, W) float32, contiguous. Before they are normalised, values are mmseg's up to one
        pixel in a thousand, where fused multiplications round otherwise, and up to the last columns
        of images whose width is no multiple of 64: OpenCV rounds there what it cuts off elsewhere.

    Raises:
        TypeError: for other dtypes.
        ValueError: for other shapes, or another ``impl``.
    """
    _check(images, drawn, mean, deviation, impl)
    way = dispatch.photometric(images) if impl == "auto" else impl
    if way == "triton":
        return triton.photometric_op.distort_images(images, drawn, mean, deviation, swap)
    values = images.permute(0, 3, 1, 2)
    if drawn is not None:
        values = photometric_reference.distort(values, drawn, DISTORTION)
    values = values.flip(1) if swap else values
    values = values.float()
    if mean is not None:
        values = (values - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    return values.contiguous()


def _check(images, drawn, mean, deviation, impl) -> None:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be (B, H, W, 3), got {tuple(images.shape)}")
    if (mean is None) != (deviation is None):
        raise ValueError("mean and deviation must both be given, or neither")
    shapes = {
        "drawn": (drawn, (len(images), len(DISTORTION))),
        "mean": (mean, (3,)),
        "deviation": (deviation, (3,)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor is None:
            continue
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name} must be float32, got {tensor.dtype}")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
