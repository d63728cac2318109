"""How an image becomes the input of a model, as its config says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..framework import framework


class Preprocessing(NamedTuple):
    """Normalisation of an image.

    Attributes:
        mean: of each channel, in the units of the image (0 to 255), to be subtracted.
        std: of each channel, to divide by afterwards.
        channels: the order that the model takes, ``'RGB'`` or ``'BGR'``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) RGB of 0 to 255, of any dtype, to what the model takes, float32."""
        pixels = pixels.float()
        if self.channels == "BGR":
            pixels = pixels.flip(1)
        mean, std = (
            torch.tensor(values, device=pixels.device).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return (pixels - mean) / std


#: What published Swin checkpoints were trained with.
IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB")


def preprocessing_of(source: str | Path | Mapping) -> Preprocessing:
    """The normalisation in a config (or in the file it is in), ImageNet's where there is none."""
    if isinstance(source, str | Path):
        source = framework().read_config(source) if str(source).endswith(".py") else {}
    settings = source.get("model", {}).get("data_preprocessor")
    if not settings or "mean" not in settings:
        return IMAGENET
    order = "RGB" if settings.get("bgr_to_rgb") else "BGR"
    return Preprocessing(tuple(settings["mean"]), tuple(settings["std"]), order)
