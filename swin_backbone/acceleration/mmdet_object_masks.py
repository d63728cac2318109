"""Masks of objects, for mmdet's MaskFormer and Mask2Former, on their device as bits.

The stock head copies an image's bitmaps byte by byte from memory that the system may move, and so
waits, image by image, for all that the GPU has to do. Here threads pack them, and nothing waits:
the same masks. Panoptic segmentation still asks the GPU which classes an image has.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .packed_bitmaps import prepared_bitmaps, prepared_by_threads
from .rewrite import Rewrite, Undo, imported, own_method, replace_methods, with_globals

PREPROCESS = "preprocess_panoptic_gt"


def stock_head() -> type | None:
    """The class of mmdet's head, once somebody has imported it."""
    return imported("mmdet.models.dense_heads.maskformer_head", "MaskFormerHead")


def finds(module: nn.Module) -> bool:
    stock = stock_head()
    # mmseg's makes its masks on the device, of a map of classes.
    return stock is not None and getattr(type(module), "loss", None) is stock.loss


def why_not(head: nn.Module) -> str | None:
    return own_method(head, "preprocess_gt", stock_head())


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"preprocess_gt": preprocess_gt})


def preprocess_gt(head: nn.Module, batch_gt_instances, batch_gt_semantic_segs):
    """``MaskFormerHead.preprocess_gt``."""
    stock = type(head).preprocess_gt
    preprocess = stock.__globals__[PREPROCESS]
    bitmaps = imported("mmdet.structures.mask", "BitmapMasks")
    found = [gt.masks for gt in batch_gt_instances if type(gt.masks) is bitmaps]
    device = batch_gt_instances[0].labels.device if found else torch.device("cpu")
    with prepared_by_threads(_prepared, device, found) as coming:
        by_masks = {
            id(masks): _OnDevice(copied) for masks, copied in zip(found, coming, strict=True)
        }

        def of_image(labels: Tensor, masks, *others):
            return preprocess(labels, by_masks.get(id(masks), masks), *others)

        changed = with_globals(stock, **{PREPROCESS: of_image})
        return changed(head, batch_gt_instances, batch_gt_semantic_segs)


def _prepared(device: torch.device, masks) -> Callable[[], Tensor]:
    return prepared_bitmaps(device, masks.masks)


class _OnDevice:
    """What a head asks mmdet's bitmaps for."""

    def __init__(self, copied: Callable[[], Tensor]):
        self._copied = copied

    def to_tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(N, H, W)."""
        return self._copied().to(device=device, dtype=dtype)


REWRITE = Rewrite("object_masks", "masks of objects copied as bits", finds, why_not, apply)
