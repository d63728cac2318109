"""Photometric distortion: drawn with a sample, as mmseg draws it, and done to a whole batch.

Done by :func:`swin_backbone.ops.distort_images`, where the data preprocessor is.
"""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform


class DrawPhotoMetricDistortion(BaseTransform):
    """Draw what mmseg's ``PhotoMetricDistortion`` draws, in its order, and leave the image.

    Args:
        brightness_delta: most that is added to or taken from all values.
        contrast_range: least and greatest factor of all values.
        saturation_range: least and greatest factor of saturation.
        hue_delta: most by which hue is turned, of 180.
    """

    def __init__(
        self,
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18,
    ):
        self.brightness_delta, self.hue_delta = brightness_delta, hue_delta
        self.contrast_range, self.saturation_range = contrast_range, saturation_range

    def transform(self, results: dict) -> dict:
        """Add ``distortion``, (7,) float32 as ``swin_backbone.ops.DISTORTION`` names it."""
        random = np.random
        brightness, saturation, hue = 0.0, 1.0, 0.0
        if random.randint(2):
            brightness = random.uniform(-self.brightness_delta, self.brightness_delta)
        first = random.randint(2)
        contrast = self._contrast() if first else 1.0
        saturates = random.randint(2)
        if saturates:
            saturation = random.uniform(*self.saturation_range)
        turns = random.randint(2)
        if turns:
            hue = random.randint(-self.hue_delta, self.hue_delta) % 180
        if not first:
            contrast = self._contrast()
        row = (brightness, contrast, first, saturates, saturation, turns, hue)
        results["distortion"] = np.array(row, np.float32)
        return results

    def _contrast(self) -> float:
        return np.random.uniform(*self.contrast_range) if np.random.randint(2) else 1.0

    def __repr__(self) -> str:
        return (
            f"DrawPhotoMetricDistortion(brightness_delta={self.brightness_delta}, "
            f"contrast_range={self.contrast_range}, saturation_range={self.saturation_range}, "
            f"hue_delta={self.hue_delta})"
        )
