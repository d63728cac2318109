"""Batches of random images with random truth, as a model's data preprocessor hands them over."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: Labels are constant in squares of so many pixels, as objects make them.
LABEL_SQUARE = 32
#: Objects in an image.
OBJECTS = 10


def random_batch(model: nn.Module, batch: int, size: tuple[int, int], device: str) -> dict:
    """What ``model(**batch, mode=...)`` takes, of a segmentor or a detector.

    Args:
        model: of mmseg or mmdet; segmentors know their ``decode_head.num_classes``.
        batch: images.
        size: their rows and columns, in pixels.
        device: where they go.

    Returns:
        ``inputs`` (batch, 3, H, W) float32 of a standard normal distribution, and
        ``data_samples`` with label maps, or with boxes, labels and masks.
    """
    images = torch.randn(batch, 3, *size, device=device)
    head = _last_head(model)
    samples = _label_maps(head, batch, size, device) if head else _objects(batch, size, device)
    return {"inputs": images, "data_samples": samples}


def _last_head(model: nn.Module) -> nn.Module | None:
    """A segmentor's decode head, the last of several; ``None`` of a detector."""
    head = getattr(model, "decode_head", None)
    return head[-1] if isinstance(head, nn.ModuleList) else head


def _label_maps(head: nn.Module, batch: int, size: tuple[int, int], device: str) -> list:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    rows, columns = (-(-side // LABEL_SQUARE) for side in size)
    samples = []
    for _ in range(batch):
        labels = torch.randint(head.num_classes, (rows, columns), device=device)
        labels = labels.repeat_interleave(LABEL_SQUARE, 0).repeat_interleave(LABEL_SQUARE, 1)
        sample = SegDataSample(metainfo=_metainfo(size))
        sample.gt_sem_seg = PixelData(data=labels[None, : size[0], : size[1]].clone())
        samples.append(sample)
    return samples


def _objects(batch: int, size: tuple[int, int], device: str) -> list:
    """Boxes of a tenth to a half of the image's sides, of class 0, with masks that fill them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    sides = torch.tensor([size[1], size[0]], device=device)
    samples = []
    for _ in range(batch):
        extent = (0.1 + 0.4 * torch.rand(OBJECTS, 2, device=device)) * sides
        corner = torch.rand(OBJECTS, 2, device=device) * (sides - extent)
        boxes = torch.cat([corner, corner + extent], dim=1)
        labels = torch.zeros(OBJECTS, dtype=torch.long, device=device)
        masks = torch.zeros(OBJECTS, *size, dtype=torch.uint8, device="cpu")
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        sample = DetDataSample(metainfo=_metainfo(size))
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=labels, masks=BitmapMasks(masks.numpy(), *size)
        )
        samples.append(sample)
    return samples


def _metainfo(size: tuple[int, int]) -> dict[str, Any]:
    shapes = dict.fromkeys(("img_shape", "pad_shape", "ori_shape", "batch_input_shape"), size)
    return {**shapes, "scale_factor": (1.0, 1.0)}
