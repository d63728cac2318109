"""Two ways to label the pixels of an image: a config with its checkpoint, or an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.apis import inference_model
from torch import Tensor

from ..acceleration import accelerate
from ..openmmlab.whole_models import load_whole_model
from .export import ExportedModel, ModelCard, load

#: Images with more pixels than this are cut into windows, unless told otherwise.
LARGE = 2048 * 1024


#: Most windows that an image is cut into. A thousand take minutes on a CPU, and more are a slip in
#: ``--window``: an image of the most pixels that are read has 400 of the default's size.
MOST_WINDOWS = 4096


class TooManyWindowsError(ValueError):
    """An image that would be cut into more than :data:`MOST_WINDOWS` windows."""


@dataclass(frozen=True)
class Sliding:
    """Whether an image is seen in windows, which overlap by a third.

    Args:
        mode: ``'auto'`` (images over ``large`` pixels), ``'always'`` or ``'never'``.
        window: side of a window, in pixels.
        large: pixels that an image may have in ``'auto'`` without being cut.

    Raises:
        ValueError: for another mode, or a window below 1.
    """

    mode: str = "auto"
    window: int = 1024
    large: int = LARGE

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "always", "never"):
            raise ValueError(f"mode must be 'auto', 'always' or 'never', got {self.mode!r}")
        if self.window < 1:
            raise ValueError(f"--window must be at least 1, got {self.window}")

    def applies(self, image: np.ndarray) -> bool:
        """Whether this image is cut.

        Raises:
            TooManyWindowsError: if it would be cut into too many.
        """
        large = image.shape[0] * image.shape[1] > self.large
        if self.mode == "never" or not (large or self.mode == "always"):
            return False
        self.starts(*image.shape[:2])
        return True

    @property
    def stride(self) -> int:
        return max(2 * self.window // 3, 1)

    def starts(self, height: int, width: int) -> tuple[list[int], list[int]]:
        """First rows and first columns of the windows that cover an image.

        Raises:
            TooManyWindowsError: if they are too many.
        """
        rows, columns = (_starts(side, self.window, self.stride) for side in (height, width))
        if len(rows) * len(columns) > MOST_WINDOWS:
            raise TooManyWindowsError(
                f"--window {self.window} would cut {width}x{height} pixels into "
                f"{len(rows) * len(columns)} windows, at most {MOST_WINDOWS} are seen; choose a "
                f"larger --window"
            )
        return rows, columns


class Predictor(Protocol):
    """Labels the pixels of images.

    Attributes:
        classes: names of the labels.
        palette: their colours.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def labels(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 BGR to (H, W) integers."""


class CheckpointPredictor:
    """A model of a config and a checkpoint, accelerated.

    Args:
        config: path of a config of mmsegmentation.
        checkpoint: path of its checkpoint.
        device: where it runs.
        sliding: when to cut images into windows; in ``auto``, smaller images are seen as the
            config's ``test_cfg`` says.
        allow_missing: go on with tensors that the checkpoint does not have.
    """

    def __init__(
        self,
        config: str,
        checkpoint: str,
        device: str,
        sliding: Sliding,
        allow_missing: bool = False,
    ):
        self.model = load_whole_model(
            config, checkpoint, device, kind="segmentor", allow_missing=allow_missing
        )
        accelerate(self.model)
        self.classes = self.model.dataset_meta["classes"]
        self.palette = self.model.dataset_meta["palette"]
        self._own_mode = self.model.test_cfg
        self._sliding = sliding

    def labels(self, image: np.ndarray) -> np.ndarray:
        self.model.test_cfg = self._test_mode(image)
        return inference_model(self.model, image).pred_sem_seg.data[0].cpu().numpy()

    def _test_mode(self, image: np.ndarray) -> ConfigDict:
        own, side, stride = self._own_mode, self._sliding.window, self._sliding.stride
        if self._sliding.applies(image):
            self._sliding.starts(*_tested_size(self.model.cfg, *image.shape[:2]))
            return ConfigDict(own, mode="slide", crop_size=(side, side), stride=(stride, stride))
        return ConfigDict(own, mode="whole") if self._sliding.mode == "never" else own


class OnnxPredictor:
    """An exported segmentor, run by onnxruntime; its card says how images are prepared.

    Args:
        file: its path, or what :func:`swin_backbone.inference.export.load` made of it.
        sliding: when to cut images into windows.

    Raises:
        ValueError: if the file is no exported segmentor.
    """

    def __init__(self, file: str | ExportedModel, sliding: Sliding):
        self.model = file if isinstance(file, ExportedModel) else load(file)
        card = self.model.card
        path = card.name if isinstance(file, ExportedModel) else file
        if card.kind != "segmentor":
            raise ValueError(f"{path} is a {card.kind}, which has no classes to paint")
        if not card.classes or len(card.classes) != len(card.palette):
            raise ValueError(f"the card of {path} must name all classes and their colours")
        self.classes = card.classes
        self.palette = card.palette
        self._sliding = sliding

    def labels(self, image: np.ndarray) -> np.ndarray:
        resized = resize_as_tested(image, self.model.card)
        pixels = torch.from_numpy(np.ascontiguousarray(resized[..., ::-1])).permute(2, 0, 1)
        images = self.model.normalise(pixels[None])
        scores = self._windows(images) if self._sliding.applies(image) else self.model(images)[0]
        if scores.shape[2:] != image.shape[:2]:
            scores = F.interpolate(scores, image.shape[:2], mode="bilinear", align_corners=False)
        return scores.argmax(dim=1)[0].numpy()

    def _windows(self, images: Tensor) -> Tensor:
        """Mean of the scores of all windows that see a pixel."""
        total = count = 0
        side, (height, width) = self._sliding.window, images.shape[2:]
        rows, columns = self._sliding.starts(height, width)
        for top in rows:
            for left in columns:
                bottom, right = min(top + side, height), min(left + side, width)
                scores = self.model(images[:, :, top:bottom, left:right])[0]
                around = (left, width - right, top, height - bottom)
                total = total + F.pad(scores, around)
                count = count + F.pad(torch.ones_like(scores[:, :1]), around)
        return total / count


def _starts(length: int, side: int, stride: int) -> list[int]:
    """First pixels of windows that cover ``length``; the last ends with it."""
    last = max(length - side, 0)
    return [*range(0, last, stride), last]


def _tested_size(cfg: ConfigDict, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of an image of this size after a config's test pipeline."""
    for step in cfg.get("test_pipeline", []):
        scale = step.get("scale") if step["type"] == "Resize" else None
        if scale is not None:
            keeps = step.get("keep_ratio", False)
            width, height = mmcv.rescale_size((width, height), scale) if keeps else scale
    return height, width


def resize_as_tested(image: np.ndarray, card: ModelCard) -> np.ndarray:
    """(H, W, C) resized as the card says."""
    size = card.resize
    if card.resize_factor is not None:  # rounded as mmcv's Resize rounds
        sides = zip(image.shape[1::-1], card.resize_factor, strict=True)
        size = tuple(int(side * factor + 0.5) for side, factor in sides)
    if size is None:
        return image
    resize = mmcv.imrescale if card.keep_aspect else mmcv.imresize
    return resize(image, size)
