"""Two ways to find the objects of an image: a config with its checkpoint, or an ONNX file."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..openmmlab.whole_models import load_whole_model
from .export import ExportedModel
from .mask_pasting import paste_masks
from .predictors import resize_as_tested


class Objects(NamedTuple):
    """What was found in an image (H, W), on the CPU.

    Attributes:
        boxes: (N, 4) float, x1, y1, x2, y2 in pixels.
        scores: (N,) float, 0 to 1.
        labels: (N,) integers.
        masks: (N, H, W) bool, or ``None`` of a model that gives none.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def __getitem__(self, index: Tensor) -> Objects:
        """Some of the objects, by a mask or by their numbers."""
        return Objects(*(None if column is None else column[index] for column in self))


class Finder(Protocol):
    """Finds objects in images.

    Attributes:
        classes: names of the labels.
        network: the model of a checkpoint, ``None`` for an exported one.
    """

    classes: tuple[str, ...]
    network: nn.Module | None

    def objects(self, image: np.ndarray) -> Objects:
        """What is in an image (H, W, 3) uint8 BGR."""


class CheckpointFinder:
    """A model of mmdet, of a config and a checkpoint.

    Args:
        config: its config.
        checkpoint: its checkpoint.
        device: where it runs.
        allow_missing: go on with tensors that the checkpoint does not have.
    """

    def __init__(self, config: str, checkpoint: str, device: str, allow_missing: bool = False):
        self.network = load_whole_model(
            config, checkpoint, device, kind="detector", allow_missing=allow_missing
        )
        self.classes = tuple(self.network.dataset_meta["classes"])

    def objects(self, image: np.ndarray) -> Objects:
        from mmdet.apis import inference_detector
        from mmengine.registry import DefaultScope

        with DefaultScope.overwrite_default_scope("mmdet"):
            found = inference_detector(self.network, image).pred_instances.cpu()
        masks = found.masks if "masks" in found else None
        return Objects(found.bboxes, found.scores, found.labels, masks)


class OnnxFinder:
    """An exported detector, run by onnxruntime; its card says how images are prepared.

    Args:
        model: from :func:`swin_backbone.inference.export.load`.

    Raises:
        ValueError: if it is no detector, or does not name its classes.
    """

    network = None

    def __init__(self, model: ExportedModel):
        card = model.card
        if card.kind != "detector":
            raise ValueError(f"{card.name} is a {card.kind}, and no detector")
        if not card.classes:
            raise ValueError(f"the card of {card.name} must name all classes")
        self.model = model
        self.classes = card.classes

    def objects(self, image: np.ndarray) -> Objects:
        card = self.model.card
        resized = resize_as_tested(image, card)
        pixels = torch.from_numpy(np.ascontiguousarray(resized[..., ::-1])).permute(2, 0, 1)
        boxes, scores, labels, *masks = self.model(self.model.normalise(pixels[None]))
        (height, width), (rows, columns) = image.shape[:2], resized.shape[:2]
        boxes = boxes / boxes.new_tensor([columns / width, rows / height] * 2)
        if not masks:
            return Objects(boxes, scores, labels)
        pasted = paste_masks(masks[0], boxes, (height, width), card.mask_threshold)
        return Objects(boxes, scores, labels, pasted)
