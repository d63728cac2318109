"""From a batch of bytes to what a segmentor takes, on the device."""

from __future__ import annotations

import functools

import torch
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from torch import Tensor

from ... import ops


@functools.cache
def _stream_of_copies(device: torch.device) -> torch.cuda.Stream:
    """Not an attribute of a module, which may be copied and saved."""
    return torch.cuda.Stream(device)


class SegBytesPreprocessor(SegDataPreProcessor):
    """mmseg's ``SegDataPreProcessor``, which also takes what ``stack_seg_bytes`` gives.

    Those are copied while the device is still busy with the step before, distorted, normalised
    and padded there. Every other batch, as those of validation, is left to mmseg's class.

    Args:
        mean, std, bgr_to_rgb, rgb_to_bgr, **arguments: as ``SegDataPreProcessor``.
    """

    def __init__(
        self, mean=None, std=None, bgr_to_rgb: bool = False, rgb_to_bgr: bool = False, **arguments
    ):
        super().__init__(
            mean=mean, std=std, bgr_to_rgb=bgr_to_rgb, rgb_to_bgr=rgb_to_bgr, **arguments
        )
        self.normalises = mean is not None
        self.swaps = bgr_to_rgb or rgb_to_bgr

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess a batch.

        Args:
            data: ``inputs`` (B, H, W, 3) and ``labels`` (B, H, W) uint8, ``data_samples``, and
                ``distortion`` (B, 7) where one was drawn; or what mmseg's class takes.
            training: whether to pad as in training.

        Returns:
            ``inputs`` (B, 3, H, W) float32; ``data_samples`` with ``gt_sem_seg`` (1, H, W) int64.
        """
        if "labels" not in data:
            return super().forward(data, training)
        batch = self._to_device({k: v for k, v in data.items() if isinstance(v, Tensor)})
        mean, std = (self.mean.view(3), self.std.view(3)) if self.normalises else (None, None)
        images = ops.distort_images(
            batch["inputs"], batch.get("distortion"), mean, std, swap=self.swaps
        )
        samples = data["data_samples"]
        images, labels = self._pad(images, batch["labels"], samples)
        for sample, one in zip(samples, labels[:, None].long().unbind(0), strict=True):
            sample.gt_sem_seg = PixelData(data=one)
        if training and self.batch_augments is not None:
            images, samples = self.batch_augments(images, samples)
        return {"inputs": images, "data_samples": samples}

    def _to_device(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copy, on a stream beside the one that computes: the host is a step ahead of it."""
        if self.device.type != "cuda":
            return {name: tensor.to(self.device) for name, tensor in tensors.items()}
        computes = torch.cuda.current_stream(self.device)
        copies = _stream_of_copies(computes.device)
        with torch.cuda.stream(copies):
            moved = {
                name: tensor.to(self.device, non_blocking=True) for name, tensor in tensors.items()
            }
        computes.wait_stream(copies)
        for tensor in moved.values():
            tensor.record_stream(computes)
        return moved

    def _pad(self, images: Tensor, labels: Tensor, samples: list) -> tuple[Tensor, Tensor]:
        """Pad to ``size`` or ``size_divisor``, as mmseg's ``stack_batch`` does, and say so."""
        height, width = images.shape[-2:]
        if self.size is not None:
            height, width = (max(a, b) for a, b in zip(self.size, (height, width), strict=True))
        elif self.size_divisor:
            height, width = (
                -(-side // self.size_divisor) * self.size_divisor for side in (height, width)
            )
        else:
            raise ValueError("the data preprocessor needs size or size_divisor to train")
        if (height, width) != images.shape[-2:]:
            padding = (0, width - images.shape[-1], 0, height - images.shape[-2])
            images = torch.nn.functional.pad(images, padding, value=self.pad_val)
            labels = torch.nn.functional.pad(labels, padding, value=self.seg_pad_val)
        for place, sample in enumerate(samples):
            rows, columns = sample.img_shape
            if (rows, columns) != (height, width):
                for part in (images[place, :, rows:], images[place, :, :, columns:]):
                    part.fill_(self.pad_val)
                labels[place, rows:] = labels[place, :, columns:] = self.seg_pad_val
            sample.set_metainfo(
                {
                    "pad_shape": (height, width),
                    "padding_size": (0, width - columns, 0, height - rows),
                }
            )
        return images, labels
