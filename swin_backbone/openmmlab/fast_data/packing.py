"""Batches as bytes: what goes from the workers over the bus is what was decoded, stacked."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import PackSegInputs
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.utils.data import default_collate

from .load_resized_crop import count_labels

#: A label that losses leave out, where images of a batch have different sizes.
IGNORED = 255


class PackSegBytes(BaseTransform):
    """Pack a training sample as bytes, in the place of mmseg's ``PackSegInputs``.

    Args:
        meta_keys: what a data sample says of its image; default: as ``PackSegInputs``.

    Raises:
        ValueError: for another image than (H, W, 3), and other labels than (H, W), of uint8.
    """

    def __init__(self, meta_keys: Sequence[str] | None = None):
        self.meta_keys = PackSegInputs().meta_keys if meta_keys is None else meta_keys

    def transform(self, results: dict) -> dict:
        """Tensors of ``inputs`` (H, W, 3) and ``labels`` (H, W) uint8, ``distortion`` (7,) where
        one was drawn, and ``data_samples``, whose ``label_values`` are the labels that occur."""
        image, labels = results["img"], results["gt_seg_map"]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"img must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        if labels.dtype != np.uint8 or labels.shape != image.shape[:2]:
            raise ValueError(
                f"gt_seg_map must be {image.shape[:2]} uint8, as its image, got {labels.shape} "
                f"{labels.dtype}"
            )
        sample = SegDataSample()
        meta = {key: results[key] for key in self.meta_keys if key in results}
        labels = contiguous(labels)
        meta["label_values"] = np.flatnonzero(count_labels(labels)).tolist()
        sample.set_metainfo(meta)
        packed = {
            "inputs": torch.from_numpy(contiguous(image)),
            "labels": torch.from_numpy(labels),
            "data_samples": sample,
        }
        if "distortion" in results:
            packed["distortion"] = torch.from_numpy(results["distortion"])
        return packed

    def __repr__(self) -> str:
        return f"PackSegBytes(meta_keys={self.meta_keys})"


def contiguous(image: np.ndarray) -> np.ndarray:
    """A contiguous copy of an image, or itself. What ``numpy.flip`` turned is copied by OpenCV,
    which is twenty times as fast."""
    rows, columns = (stride < 0 for stride in image.strides[:2])
    if not (rows or columns):
        image = np.ascontiguousarray(image)
        return image if image.flags.writeable else image.copy()
    stored = image[:: -1 if rows else 1, :: -1 if columns else 1]
    return cv2.flip(stored, -1 if rows and columns else int(columns))


def stack_seg_bytes(samples: Sequence[dict]) -> dict:
    """Put packed samples together: a tensor a kind, in memory that processes share.

    Args:
        samples: of :class:`PackSegBytes`. Smaller images are filled up at the right and at the
            bottom, with zeros and ignored labels.

    Returns:
        ``inputs`` (B, H, W, 3), ``labels`` (B, H, W), ``distortion`` (B, 7) where drawn, and a list
        of ``data_samples``.
    """
    batch = {"data_samples": [sample["data_samples"] for sample in samples]}
    fills = {"inputs": 0, "labels": IGNORED, "distortion": 0}
    for name in samples[0].keys() - {"data_samples"}:
        batch[name] = default_collate(_equally_large([s[name] for s in samples], fills[name]))
    return batch


def _equally_large(tensors: list[Tensor], fill: int) -> list[Tensor]:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) == 1:
        return tensors
    largest = tuple(map(max, zip(*shapes, strict=True)))
    filled = []
    for tensor in tensors:
        whole = tensor.new_full(largest, fill)
        whole[tuple(map(slice, tensor.shape))] = tensor
        filled.append(whole)
    return filled
