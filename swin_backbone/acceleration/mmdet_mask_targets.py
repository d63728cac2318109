"""Mask targets cut out where the boxes lie, of bitmaps.

mmdet copies boxes to the host and back, makes a float map of the image's size for every sampled
box, and copies the result to the host and back. Here each image's masks go to the device once, and
boxes say which of them they are cut out of: the same op, the same targets. In a detector that is
accelerated they go there while the backbone is still computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .rewrite import Rewrite, Undo, imported, is_of, own_method, replace_methods, why_unproven

#: Masks on a device, of batches whose losses are being computed.
_ahead: WeakKeyDictionary = WeakKeyDictionary()


def stock() -> type | None:
    """The class of mmdet's mask heads, once somebody has imported it."""
    return imported("mmdet.models.roi_heads.mask_heads.fcn_mask_head", "FCNMaskHead")


def finds(module: nn.Module) -> bool:
    return is_of(module, stock())


def why_not(head: nn.Module) -> str | None:
    return own_method(head, "get_targets", stock())


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"get_targets": get_targets})


def get_targets(
    head: nn.Module, sampling_results: Sequence, batch_gt_instances: Sequence, rcnn_train_cfg
) -> Tensor:
    """``FCNMaskHead.get_targets``."""
    bitmaps = imported("mmdet.structures.mask", "BitmapMasks")
    if not all(type(gt.masks) is bitmaps for gt in batch_gt_instances):
        return type(head).get_targets(head, sampling_results, batch_gt_instances, rcnn_train_cfg)
    size = rcnn_train_cfg.mask_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    soft = rcnn_train_cfg.get("soft_mask_target", False)
    targets = [
        _cut(gt.masks, result.pos_priors, result.pos_assigned_gt_inds, size)
        for result, gt in zip(sampling_results, batch_gt_instances, strict=True)
    ]
    targets = torch.cat(targets)
    return (targets if soft else targets >= 0.5).float()


def _cut(masks, boxes: Tensor, chosen: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, *size), float32 or of the boxes: of boxes (N, 4), each in the mask it is assigned to."""
    if not len(boxes) or not len(masks.masks):
        return boxes.new_zeros((len(boxes), *size), dtype=torch.float32)
    roi_align = imported("mmcv.ops.roi_align", "roi_align")
    # Bins whose mean is one half or next to it are full or empty by the last bits of their boxes.
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    x, y = boxes[:, 0::2].clamp(0, masks.width), boxes[:, 1::2].clamp(0, masks.height)
    rois = torch.stack([chosen.to(boxes), x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    pixels = _ahead.get(masks)
    if pixels is None or pixels.device != boxes.device:
        pixels = _copied(masks, boxes.device)
    return roi_align(pixels[:, None].to(boxes), rois, size, 1.0, 0, "avg", True)[:, 0]


def _copied(masks, device: torch.device) -> Tensor:
    """(N, H, W) uint8 of bitmaps."""
    pixels = torch.from_numpy(masks.masks)
    # A copy from memory that the system may move waits for all that the device has to do.
    pixels = pixels.pin_memory() if device.type == "cuda" else pixels
    return pixels.to(device, non_blocking=True)


@contextmanager
def masks_ahead(heads: Sequence[nn.Module], samples: Sequence) -> Iterator[Callable]:
    """Within it, the masks of a batch can be on a device before targets are cut out of them.

    Args:
        heads: mask heads of a detector.
        samples: data samples of the batch.

    Yields:
        What starts the copies to a device, if all the heads are accelerated.
    """
    bitmaps, held = imported("mmdet.structures.mask", "BitmapMasks"), []

    def start(device: torch.device) -> None:
        if not heads or not all(map(_is_accelerated, heads)) or why_unproven() is not None:
            return
        for sample in samples:
            masks = sample.gt_instances.get("masks")
            if type(masks) is bitmaps and len(masks.masks):
                _ahead[masks] = _copied(masks, device)
                held.append(masks)

    try:
        yield start
    finally:
        for masks in held:
            _ahead.pop(masks, None)


def _is_accelerated(head: nn.Module) -> bool:
    return getattr(head.__dict__.get("get_targets"), "__func__", None) is get_targets


REWRITE = Rewrite(
    "mask_targets",
    "mask targets cut out where the boxes lie",
    finds,
    why_not,
    apply,
)
