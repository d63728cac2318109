"""Photometric distortion as mmseg does it on bytes, in plain operators."""

from __future__ import annotations

import torch
from torch import Tensor


def distort(images: Tensor, drawn: Tensor, fields: tuple[str, ...]) -> Tensor:
    """What :func:`swin_backbone.ops.distort_images` computes, before it is normalised.

    Args:
        images: (B, 3, H, W) uint8, blue first.
        drawn: (B, 7) float32, a row an image as ``fields`` names it.
        fields: names of what was drawn.

    Returns:
        (B, 3, H, W) float32 of whole numbers from 0 to 255.
    """
    field = {name: drawn[:, place].view(-1, 1, 1) for place, name in enumerate(fields)}
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
