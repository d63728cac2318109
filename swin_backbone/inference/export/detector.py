"""A whole detector as one function from an image to boxes."""

from __future__ import annotations

from torch import nn

from .dino import DinoDetections, dino_replacements
from .mask_rcnn import RegionDetections
from .retinanet import RetinaNetDetections

#: What :func:`detections` gives.
DETECTIONS = (DinoDetections, RegionDetections, RetinaNetDetections)

#: By the name of mmdet's class: what overrides a step of it would not be exported as it is.
BY_MODEL: dict[str, type[nn.Module]] = {
    "DINO": DinoDetections,
    "FasterRCNN": RegionDetections,
    "MaskRCNN": RegionDetections,
    "RetinaNet": RetinaNetDetections,
}
HEADS = {"DINO": "DINOHead", "RetinaNet": "RetinaHead"}


def detections(detector: nn.Module) -> nn.Module:
    """Backbone, neck, heads and suppression of a detector: what mmdet's ``predict`` does with one
    image of the size that the network sees, without pasting masks into it.

    Args:
        detector: mmdet's ``RetinaNet``, ``FasterRCNN``, ``MaskRCNN`` or ``DINO``.

    Returns:
        A module from (1, 3, H, W) normalised images to boxes (N, 4), x1, y1, x2, y2 in pixels,
        scores (N,) and int64 labels (N,), best first; where there are masks, also their
        probabilities (N, rows, columns) within each box.

    Raises:
        ValueError: for another detector, or a setting that the export would not follow.
    """
    name = type(detector).__name__
    if name not in BY_MODEL:
        raise ValueError(
            f"a detector must be one of {sorted(BY_MODEL)} to be exported whole, got {name}: "
            f"export its backbone, --part backbone"
        )
    head = type(getattr(detector, "bbox_head", None)).__name__
    if head != HEADS.get(name, head):
        raise ValueError(f"bbox_head of a {name} must be {HEADS[name]} to be exported, got {head}")
    if getattr(detector.backbone, "mask_padding", False):
        raise ValueError("a detector is exported with mask_padding=False: it sees one image alone")
    return BY_MODEL[name](detector).eval()


def mmdet_replacements() -> dict:
    """Stand-ins for modules of mmdet's models, by their type."""
    return dino_replacements()
