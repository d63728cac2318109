"""Mask targets cut out where the boxes lie, of bitmaps and of polygons.

mmdet copies boxes to the host and back, makes a float map of the image's size for every sampled
box, and copies the result to the host and back; polygons it draws on the host, box by box. Here
each image's masks, or the edges of its polygons, go to the device once, and boxes say which of them
they are cut out of: the same targets. In a detector that is accelerated, threads prepare that from
the step's beginning on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..ops.host_copies import ready_for
from .packed_bitmaps import prepared_bitmaps, prepared_by_threads
from .polygon_masks import Outlines, cut_out, outlines_of, why_no_outlines
from .rewrite import Rewrite, Undo, imported, is_of, own_method, replace_methods

#: Of masks of batches whose losses are being computed, the device, and what gives them there.
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
    soft = rcnn_train_cfg.get("soft_mask_target", False)
    if not all(_is_known(gt.masks, soft) for gt in batch_gt_instances):
        return type(head).get_targets(head, sampling_results, batch_gt_instances, rcnn_train_cfg)
    size = rcnn_train_cfg.mask_size
    size = (size, size) if isinstance(size, int) else tuple(size)
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
    # Bins whose mean is one half or next to it are full or empty by the last bits of their boxes.
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    x, y = boxes[:, 0::2].clamp(0, masks.width), boxes[:, 1::2].clamp(0, masks.height)
    boxes = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    device, copied = _ahead.get(masks, (None, None))
    copy = copied() if device == boxes.device else _prepared(boxes.device, masks)()
    if isinstance(copy, Outlines):
        return cut_out(copy, boxes, chosen, size).float()
    roi_align = imported("mmcv.ops.roi_align", "roi_align")
    rois = torch.cat([chosen.to(boxes)[:, None], boxes], 1)
    return roi_align(copy[:, None].to(boxes), rois, size, 1.0, 0, "avg", True)[:, 0]


def _prepared(device: torch.device, masks) -> Callable[[], Tensor | Outlines]:
    """What gives bitmaps (N, H, W), or polygons as outlines, on a device."""
    if type(masks) is not imported("mmdet.structures.mask", "PolygonMasks"):
        return prepared_bitmaps(device, masks.masks)
    outlines = ready_for(outlines_of(masks.masks), device)
    return lambda: outlines.to(device, non_blocking=True)


def _is_known(masks, soft: bool) -> bool:
    """Whether masks are of a kind that is cut out here."""
    if type(masks) is imported("mmdet.structures.mask", "BitmapMasks"):
        return True
    if type(masks) is not imported("mmdet.structures.mask", "PolygonMasks") or soft:
        return False  # mmdet refuses shares of pixels of polygons
    return not masks.masks or why_no_outlines(masks.masks) is None


@contextmanager
def masks_ahead(
    heads: Sequence[nn.Module], samples: Sequence, device: torch.device
) -> Iterator[None]:
    """Within it, threads prepare the masks of a batch, if all mask heads are accelerated.

    Args:
        heads: mask heads of a detector.
        samples: data samples of the batch.
        device: of the detector.
    """
    found = [sample.gt_instances.get("masks") for sample in samples] if heads else []
    if not all(map(_is_accelerated, heads)):
        found = []
    known = [m for m in found if m is not None and _is_known(m, soft=False) and len(m.masks)]
    with prepared_by_threads(_prepared, device, known) as coming:
        _ahead.update(
            {masks: (device, copied) for masks, copied in zip(known, coming, strict=True)}
        )
        try:
            yield
        finally:
            for masks in known:
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
