"""Of boxes that overlap, the best."""

from __future__ import annotations

import torch
from torch import Tensor

from . import dispatch, triton
from .argument_checks import FINITE, check_choice, check_tensor
from .reference.suppression_reference import stays, suppress

#: What computes it; see :func:`non_maximum_suppression`.
SUPPRESSION = ("auto", "reference", "triton")


def non_maximum_suppression(
    boxes: Tensor, scores: Tensor, iou_threshold: float, *, impl: str = "auto"
) -> Tensor:
    """Indices of the boxes that no better box, itself kept, overlaps by more than a threshold.

    The same boxes as ``torchvision.ops.nms`` gives on the same device, also of equal scores, the
    first of which is the best, and of overlaps that meet the threshold: a CPU compares with the
    threshold in float64, a GPU with it in float32. An overlap of 3/10 in float32 is thus above 0.3
    on a CPU, and is not on a GPU. On a GPU a block of 64 boxes is decided at once.

    Args:
        boxes: (N, 4), floating point, as x1, y1, x2, y2. Of 16 bits they are compared in float32.
        scores: (N,), floating point.
        iou_threshold: intersection over union above which the worse box goes.
        impl: ``'reference'``, plain PyTorch, box by box, which defines it; ``'triton'``, kernels,
            of float32 and 16 bits; ``'auto'``, the fastest one that can run.

    Returns:
        int64 (kept,), best first. Of how many is known when the device is done: the call waits.

    Raises:
        ValueError: for other shapes, a threshold that is not finite, or an ``impl`` that there is
            not or that cannot run.
        TypeError: for other types and dtypes.
    """
    check(boxes, scores)
    threshold = _as_compared(FINITE("iou_threshold", iou_threshold), boxes)
    way, boxes = _way(boxes, impl), _wide(boxes)
    if way == "triton":
        return triton.suppression_op.suppress(boxes, scores, threshold)
    return suppress(boxes, scores, threshold)


def unsuppressed(boxes: Tensor, iou_threshold: float, *, impl: str = "auto") -> Tensor:
    """Which boxes of each image no better box, itself kept, overlaps by more than a threshold.

    As :func:`non_maximum_suppression` for boxes that come best first, of all images at once, and
    without a wait for the device.

    Args:
        boxes: (B, N, 4), floating point, as x1, y1, x2, y2, in each image the best first.
        iou_threshold: intersection over union above which the worse box goes.
        impl: as there.

    Returns:
        bool (B, N).

    Raises:
        ValueError: for other shapes, a threshold that is not finite, or an ``impl`` that there is
            not or that cannot run.
        TypeError: for other types and dtypes.
    """
    check_tensor("boxes", boxes)
    if not boxes.is_floating_point():
        raise TypeError(f"boxes must be floating point, got {boxes.dtype}")
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be (B, N, 4), got {tuple(boxes.shape)}")
    threshold = _as_compared(FINITE("iou_threshold", iou_threshold), boxes)
    way, boxes = _way(boxes.flatten(0, 1)[: boxes.shape[1]], impl), _wide(boxes)
    if way == "triton":
        return triton.suppression_op.unsuppressed(boxes, threshold)
    kept = boxes.new_empty(boxes.shape[:2], dtype=torch.bool)
    for image, of_image in zip(boxes, kept, strict=True):
        of_image.copy_(stays(image, threshold))
    return kept


def _wide(boxes: Tensor) -> Tensor:
    """Boxes of 16 bits in float32, in which their overlaps are found."""
    return boxes.to(torch.promote_types(boxes.dtype, torch.float32))


def nearest_float32(number: float) -> Tensor:
    """The number in float32, on the CPU whatever the default device."""
    return torch.tensor(number, dtype=torch.float32, device="cpu")


def _as_compared(threshold: float, boxes: Tensor) -> float:
    """The threshold that every way compares overlaps with, for the boxes of torchvision's operator
    on this device."""
    if boxes.is_cpu == (boxes.dtype == torch.float64):
        return threshold  # exactly, or rounded where it is compared
    nearest = nearest_float32(threshold)
    if boxes.is_cpu and nearest.item() > threshold:
        # A float32 is above a number if it is above the float32 just below that number.
        nearest = nearest.nextafter(nearest_float32(-torch.inf))
    return nearest.item()


def _way(boxes: Tensor, impl: str) -> str:
    """What runs boxes (N, 4) of an image: ``'triton'`` or ``'reference'``.

    Raises:
        ValueError: as of :func:`non_maximum_suppression`.
    """
    check_choice("impl", impl, SUPPRESSION)
    if impl == "auto":
        return dispatch.suppression(boxes)
    if impl == "triton":
        reason = dispatch.why_not_boxes(boxes)
        if reason is not None:
            raise ValueError(f"impl 'triton' cannot run: {reason}")
    return impl


def check(boxes: Tensor, scores: Tensor) -> None:
    """Raise what :func:`non_maximum_suppression` says of the tensors."""
    for name, tensor in (("boxes", boxes), ("scores", scores)):
        check_tensor(name, tensor)
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (N, 4), got {tuple(boxes.shape)}")
    if tuple(scores.shape) != (len(boxes),) or scores.device != boxes.device:
        raise ValueError(
            f"scores must be ({len(boxes)},) on {boxes.device} as boxes are, got "
            f"{tuple(scores.shape)} on {scores.device}"
        )
