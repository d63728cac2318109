"""From the data samples' sizes to the backbone, through stock segmentors and detectors.

A model gets its batch from a data preprocessor and hands it to ``backbone(inputs)``, without the
data samples. So the sizes travel with the batch, as an attribute of the tensor. With

    model = dict(
        data_preprocessor=dict(type="SwinDetDataPreprocessor"),    # was 'DetDataPreprocessor'
        backbone=dict(mask_padding=True))

nothing else changes.
"""

from __future__ import annotations

import functools

import torch
from mmengine.registry import MODELS
from torch import nn


@functools.cache
def _handing_over(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a data preprocessor that puts ``valid_sizes`` (B, 2) on the batch it makes."""

    class HandingOver(base):
        def forward(self, data: dict, training: bool = False) -> dict:
            """Preprocess a batch as the stock class does."""
            own = [tuple(image.shape[-2:]) for image in data["inputs"]]
            data = super().forward(data, training)
            # Batch augmentations of the stock class change images and their img_shape alike.
            for index, sample in enumerate(data.get("data_samples") or []):
                own[index] = tuple(sample.get("img_shape", own[index])[:2])
            data["inputs"].valid_sizes = torch.tensor(own, device="cpu")
            return data

    HandingOver.__name__ = HandingOver.__qualname__ = f"Swin{base.__name__}"
    return HandingOver


@MODELS.register_module(name="SwinSegDataPreProcessor")
def segmentation_preprocessor(**arguments) -> nn.Module:
    """mmseg's ``SegDataPreProcessor``, handing over the sizes; with its arguments."""
    from mmseg.models import SegDataPreProcessor  # slow to import, and not always there

    return _handing_over(SegDataPreProcessor)(**arguments)


@MODELS.register_module(name="SwinDetDataPreprocessor")
def detection_preprocessor(**arguments) -> nn.Module:
    """mmdet's ``DetDataPreprocessor``, handing over the sizes; with its arguments."""
    from mmdet.models import DetDataPreprocessor

    return _handing_over(DetDataPreprocessor)(**arguments)
