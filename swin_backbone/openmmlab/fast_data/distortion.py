"""Photometric distortion: drawn with a sample, as mmseg draws it, and done to a whole batch.

mmseg's ``PhotoMetricDistortion`` makes an image of bytes from one of bytes after each of its steps,
twice by way of hue and saturation, with OpenCV's own rounding. :func:`distort` takes the same
steps with the same rounding on tensors, so that a GPU can do it to a batch.
"""

from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from torch import Tensor

#: What is drawn for an image, in the order of a row: added; factor of contrast; whether contrast
#: comes first; whether there is a factor of saturation; it; whether hue is turned; by how much.
FIELDS = ("brightness", "contrast", "contrast_first", "saturates", "saturation", "turns", "hue")


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
        """Add ``distortion``, (7,) float32 as :data:`FIELDS` has it."""
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
            hue = random.randint(-self.hue_delta, self.hue_delta)
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


def distort(images: Tensor, drawn: Tensor) -> Tensor:
    """What mmseg's ``PhotoMetricDistortion`` makes of each image of a batch.

    Args:
        images: (B, 3, H, W) uint8, blue first.
        drawn: (B, 7) float32, a row an image as :data:`FIELDS` has it, on the same device.

    Returns:
        (B, 3, H, W) float32 of whole numbers from 0 to 255: mmseg's, up to one pixel in thousands
        where fused multiplications round otherwise, and the last columns of images whose width is
        no multiple of 64: OpenCV rounds there what it cuts off elsewhere.
    """
    field = {name: drawn[:, place].view(-1, 1, 1) for place, name in enumerate(FIELDS)}
    first = field["contrast_first"] > 0
    one = torch.ones_like(field["contrast"])
    channels = images.float().unbind(1)
    channels = [_to_bytes(values + field["brightness"]) for values in channels]
    factor = torch.where(first, field["contrast"], one)
    channels = [_to_bytes(values * factor) for values in channels]
    channels = _through_hsv(
        channels, field["saturates"] > 0, saturation=field["saturation"], turn=0 * one
    )
    channels = _through_hsv(channels, field["turns"] > 0, saturation=one, turn=field["hue"])
    factor = torch.where(first, one, field["contrast"])
    return torch.stack([_to_bytes(values * factor) for values in channels], 1)


def _to_bytes(values: Tensor) -> Tensor:
    return values.clamp(0, 255).floor()


def _through_hsv(channels: list[Tensor], where: Tensor, saturation: Tensor, turn: Tensor):
    """Blue, green and red by way of OpenCV's hue (of 180), saturation and value, all in bytes."""
    hue, strength, value = _to_hsv(*channels)
    strength = _to_bytes(strength * saturation)
    hue = torch.remainder(hue + turn, 180)
    new = _from_hsv(hue, strength, value)
    return [torch.where(where, after, before) for after, before in zip(new, channels, strict=True)]


def _to_hsv(blue: Tensor, green: Tensor, red: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = torch.maximum(torch.maximum(blue, green), red)
    range_ = value - torch.minimum(torch.minimum(blue, green), red)
    strength = _fixed_point(range_, 255.0, value)
    sector = torch.where(value == green, blue - red + 2 * range_, red - green + 4 * range_)
    hue = _fixed_point(torch.where(value == red, green - blue, sector), 30.0, range_)
    return torch.where(hue < 0, hue + 180, hue), strength, value


def _fixed_point(value: Tensor, factor: float, divisor: Tensor) -> Tensor:
    """``value * factor / divisor``, with the quotient as OpenCV's tables have it: in 1/4096."""
    quotient = (factor * 4096 / divisor.clamp(min=1)).round()  # halves to even, as tables have it
    product = (value * quotient).to(torch.int32)
    return ((product + 2048) >> 12).float()


def _from_hsv(hue: Tensor, strength: Tensor, value: Tensor) -> list[Tensor]:
    strength, value = strength * (1 / 255), value * (1 / 255)
    sixth = hue * (6 / 180)
    sector = sixth.floor()
    rest = sixth - sector
    sector = torch.where(sector == 6, 0, sector)
    low = value * (1 - strength)
    falls = value * (1 - strength * rest)
    rises = value * (1 - strength * (1 - rest))
    return [
        _by_sector(sector, (low, low, rises, value, value, falls)),
        _by_sector(sector, (rises, value, value, falls, low, low)),
        _by_sector(sector, (value, falls, low, low, rises, value)),
    ]


def _by_sector(sector: Tensor, choices: tuple[Tensor, ...]) -> Tensor:
    chosen = choices[5]
    for number, choice in enumerate(choices[:5]):
        chosen = torch.where(sector == number, choice, chosen)
    return (chosen * 255).floor()  # as OpenCV's vector code, which has all but the end of a row
