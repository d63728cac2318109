"""Models together with how their predictions are painted over an image.

mmseg and mmdet each set a default scope for the whole process, in which names of their pipelines
are looked up; so each painter goes back to its own, and models of both can be used in turn.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

from .export import load
from .finders import Finder, Objects, OnnxFinder
from .predictors import CheckpointPredictor, OnnxPredictor, Predictor, Sliding
from .visualization import add_legend, paint_instances, paint_overlay
from .visualization.colours import distinct_colour

OPACITY = 0.55
#: Objects below this score are not painted.
LEAST_SCORE = 0.3


class Share(NamedTuple):
    """One class in an image.

    Attributes:
        label: its number.
        name: as the model calls it.
        colour: that it is painted in, RGB.
        share: of the image's pixels, from 0 to 1.
    """

    label: int
    name: str
    colour: tuple[int, int, int]
    share: float


class Seen(NamedTuple):
    """What a model makes of an image.

    Attributes:
        picture: of the image's size, painted over.
        shares: of the classes found, the largest first.
    """

    picture: Image.Image
    shares: list[Share]


class Segmentor:
    """What labels pixels, and how its labels are painted.

    Args:
        predictor: a checkpoint's or an exported model's.
        opacity: of the colours, from 0 to 1.
    """

    def __init__(self, predictor: Predictor, opacity: float = OPACITY):
        self.predictor = predictor
        self.opacity = opacity

    @classmethod
    def from_checkpoint(
        cls,
        config: str,
        checkpoint: str,
        device: str,
        sliding: Sliding | None = None,
        allow_missing: bool = False,
    ) -> Segmentor:
        """The model of a config and a checkpoint; ``sliding``: which images it sees in windows."""
        sliding = sliding or Sliding()
        return cls(CheckpointPredictor(config, checkpoint, device, sliding, allow_missing))

    @property
    def network(self) -> nn.Module | None:
        """The model of a checkpoint, ``None`` for an exported one."""
        model = self.predictor.model
        return model if isinstance(model, nn.Module) else None

    def paint(self, image: np.ndarray) -> Image.Image:
        """The picture of one image (H, W, 3) uint8 BGR: overlay, and a legend of what was found."""
        picture, shares = self.look(image)
        found = sorted(shares)  # by label
        names, palette = [one.name for one in found], [one.colour for one in found]
        return add_legend(np.asarray(picture), names, palette)

    def look(self, image: np.ndarray) -> Seen:
        """One image (H, W, 3) uint8 BGR, painted over, and the share of each class."""
        with DefaultScope.overwrite_default_scope("mmseg"):
            labels = self.predictor.labels(image)
        names, palette = self.predictor.classes, self.predictor.palette
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        overlay = paint_overlay(rgb, labels, palette, self.opacity)
        counts = zip(
            *(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True
        )
        shares = [
            Share(label, names[label], tuple(palette[label]), count / labels.size)
            for label, count in counts
            if label < len(names)
        ]
        return Seen(Image.fromarray(overlay), _largest_first(shares))


class Detector:
    """What finds objects, and how they are painted.

    Args:
        finder: a checkpoint's or an exported model's.
        score: least score of an object.
        opacity: of masks, from 0 to 1.
    """

    def __init__(self, finder: Finder, score: float = LEAST_SCORE, opacity: float = OPACITY):
        self.finder = finder
        self.score = score
        self.opacity = opacity

    @property
    def network(self) -> nn.Module | None:
        """The model of a checkpoint, ``None`` for an exported one."""
        return self.finder.network

    def paint(self, image: np.ndarray) -> Image.Image:
        """The picture of one image (H, W, 3) uint8 BGR: masks, boxes, names and scores."""
        return self.look(image).picture

    def look(self, image: np.ndarray) -> Seen:
        """One image (H, W, 3) uint8 BGR, painted over, and what its objects of each class cover."""
        found = self.finder.objects(image)
        found = found[found.scores >= self.score]
        found = found[found.scores.argsort(descending=True)]
        names, labels = self.finder.classes, found.labels.tolist()
        # Classes have colours of their own; where there is but one, its objects have.
        keys = labels if len(names) > 1 else range(len(labels))
        painted = paint_instances(
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
            found.boxes.numpy(),
            [f"{names[i]} {score:.2f}" for i, score in zip(labels, found.scores, strict=True)]
            if len(names) > 1
            else [""] * len(labels),
            [distinct_colour(key) for key in keys],
            None if found.masks is None else found.masks.numpy(),
            self.opacity,
        )
        shares = [
            Share(label, names[label], distinct_colour(label if len(names) > 1 else 0), share)
            for label, share in _covered(found, image.shape[:2]).items()
        ]
        return Seen(Image.fromarray(painted), _largest_first(shares))


def exported_painter(
    path: str, sliding: Sliding, score: float = LEAST_SCORE, opacity: float = OPACITY
) -> Segmentor | Detector:
    """The painter of an ONNX file that ``swin-backbone export`` wrote.

    Args:
        path: the file.
        sliding: which images a segmentor sees in windows.
        score: least score of an object.
        opacity: of the colours, from 0 to 1.

    Raises:
        ValueError: if the file is no exported segmentor or detector, or a detector is to see images
            in windows.
    """
    model = load(path)
    if model.card.kind != "detector":
        return Segmentor(OnnxPredictor(model, sliding), opacity)
    if sliding.mode == "always":
        raise ValueError(f"--slide always is for segmentors, and {path} is a detector's")
    return Detector(OnnxFinder(model), score, opacity)


def _covered(found: Objects, size: tuple[int, int]) -> dict[int, float]:
    """The share of an image's pixels within masks, or boxes, of objects of each class."""
    covered: dict[int, np.ndarray] = {}
    boxes = found.boxes.round().int().clamp(min=0).tolist()
    for index, label in enumerate(found.labels.tolist()):
        canvas = covered.setdefault(label, np.zeros(size, bool))
        if found.masks is not None:
            canvas |= found.masks[index].numpy().astype(bool)
        else:
            left, top, right, bottom = boxes[index]
            canvas[top:bottom, left:right] = True
    return {label: float(canvas.mean()) for label, canvas in covered.items()}


def _largest_first(shares: list[Share]) -> list[Share]:
    return sorted(shares, key=lambda one: -one.share)
