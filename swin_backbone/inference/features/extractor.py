"""From images of many sizes to features of chosen stages."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: Types that features are stored in, by the name on the command line.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ExtractorSettings:
    """Everything that decides the values of features; two runs with equal ones agree.

    Args:
        model: an architecture, or the path of a config.
        checkpoint: path or address of weights; ``None`` for the config's own.
        stages: which stages, ascending.
        pooled: the mean over each map, instead of the map.
        dtype: a name in :data:`DTYPES`: of the stored features, and the compute dtype on a device
            that has them.
    """

    model: str
    checkpoint: str | None = None
    stages: tuple[int, ...] = (0, 1, 2, 3)
    pooled: bool = True
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {list(DTYPES)}, got {self.dtype!r}")


class Extractor:
    """A backbone that takes images as they come, and never pads one to the size of another.

    Images of one size run as one batch; sizes take turns. So the features of an image do not
    depend on what else is in the batch.

    Args:
        settings: what to extract.
        device: where to run; a GPU if there is one, by default.
        batch_size: largest number of images that run at a time.
        allow_missing: go on with tensors that the checkpoint does not have.

    Raises:
        CheckpointError: if the checkpoint lacks tensors of the backbone, or they do not fit.
    """

    def __init__(
        self,
        settings: ExtractorSettings,
        device: str | None = None,
        batch_size: int = 16,
        allow_missing: bool = False,
    ):
        from ...model.create import load_backbone
        from ..preprocessing import preprocessing_of

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.settings = settings
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_size = batch_size
        self.model = load_backbone(
            settings.model,
            settings.checkpoint,
            allow_missing=allow_missing,
            out_indices=settings.stages,
        ).to(self.device)
        if self.model.init_cfg is None:
            warnings.warn(
                f"no checkpoint is given, nor named by {settings.model}: the features are those of "
                f"random weights",
                stacklevel=2,
            )
        self.preprocessing = preprocessing_of(settings.model)
        self._dtype = DTYPES[settings.dtype]

    def __call__(self, images: Sequence[np.ndarray]) -> list[list[Tensor]]:
        """Features of each image.

        Args:
            images: each (H, W, 3) uint8 RGB, of any size.

        Returns:
            For each image one tensor a stage: (C,) if pooled, else (C, rows, columns), on the CPU.
        """
        results: list[list[Tensor]] = [[] for _ in images]
        for positions in self._batches(images):
            batch = np.stack([images[position] for position in positions])
            for maps in self._run(torch.from_numpy(batch)):
                for position, features in zip(positions, maps, strict=True):
                    results[position].append(features)
        return results

    def _batches(self, images: Sequence[np.ndarray]) -> Iterator[list[int]]:
        by_size = defaultdict(list)
        for position, image in enumerate(images):
            by_size[image.shape].append(position)
        for positions in by_size.values():
            for begin in range(0, len(positions), self.batch_size):
                yield positions[begin : begin + self.batch_size]

    @torch.inference_mode()
    def _run(self, pixels: Tensor) -> Iterator[Tensor]:
        """(B, H, W, 3) uint8 to (B, C) or (B, C, h, w) of each stage."""
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        images = self.preprocessing.normalise(images)
        reduced = self._dtype is not torch.float32
        # On a CPU, products in float16 are slower than in float32; those in bfloat16 are not.
        reduced &= self.device.type != "cpu" or self._dtype is torch.bfloat16
        with torch.autocast(self.device.type, self._dtype, enabled=reduced):
            maps = self.model(images)
        for features in maps:
            if self.settings.pooled:
                features = features.float().mean(dim=(2, 3))
            # Each is stored by itself, so none may be a view of the whole batch.
            yield from [[one.clone() for one in features.to("cpu", self._dtype).contiguous()]]
