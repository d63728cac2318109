"""Parameters and FLOPs of whole models, counted on PyTorch's meta device.

Parameters are all of the model's, with the auxiliary head. FLOPs are those of predicting one image:
one for each multiply-add of a convolution, a linear layer or a product within attention, and none
for what is cheap beside these (norms, activations, softmax, pooling, resizing). Nothing is computed
or downloaded. A detector of two stages predicts from 1000 proposals and masks 100 of them, as the
published numbers are counted.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch.utils.flop_counter import FlopCounterMode

from .mmengine_configs import read_config
from .whole_models import kind_of

#: Rows and columns at which the FLOPs of detectors are published.
DETECTION_SIZE = (800, 1280)
PROPOSALS, MASKS = 1000, 100


class Stats(NamedTuple):
    """What was counted for one config.

    Attributes:
        path: the config.
        parameters: number of parameters.
        crop: rows and columns of a training crop; ``None`` for a detector.
        crop_flops: multiply-adds for one image of that size; ``None`` where they are not counted.
        test: rows and columns to which test images are resized at most, ``None`` if they are not;
            of a detector, the size at which FLOPs are published.
        test_flops: multiply-adds for one image of that size; ``None`` where they are not counted.
    """

    path: Path
    parameters: int
    crop: tuple[int, int] | None
    crop_flops: int | None
    test: tuple[int, int] | None
    test_flops: int | None


def measure(path: Path) -> Stats:
    """Count one config.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no model of mmseg or mmdet.
    """
    cfg = read_config(path)
    kind = kind_of(cfg, f"config {str(path)!r}")
    model = build_on_meta(cfg)
    if kind == "detector":
        size = detection_size(cfg)
        return Stats(
            path=Path(path),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            crop=None,
            crop_flops=None,
            test=size,
            test_flops=count_detector_flops(model, size),
        )
    crop = tuple(cfg.model.data_preprocessor.size)
    test = test_size(cfg)
    # Mask transformers compute masks on the host.
    count = (lambda *_: None) if hasattr(model.decode_head, "pixel_decoder") else count_flops
    return Stats(
        path=Path(path),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        crop=crop,
        crop_flops=count(model, crop),
        test=test,
        test_flops=count(model, test) if test else None,
    )


def build_on_meta(cfg: Config) -> torch.nn.Module:
    """The config's model with shapes but without values, ready to predict."""
    scope = cfg.get("default_scope", "mmseg")
    models = importlib.import_module(f"{scope}.registry").MODELS
    init_default_scope(scope)
    with torch.device("meta"):
        return models.build(cfg.model).eval()


def detection_size(cfg: Config) -> tuple[int, int]:
    """The size at which FLOPs are published, in whole pixels of the backbone's last stage."""
    coarsest = 2 ** (max(len(cfg.model.backbone.get("depths", ())), 4) + 1)
    rows, columns = (-(-side // coarsest) * coarsest for side in DETECTION_SIZE)
    return rows, columns


def test_size(cfg: Config) -> tuple[int, int] | None:
    """Rows and columns of the largest image that the test pipeline's resizing makes."""
    for transform in cfg.get("test_pipeline", []):
        if transform.type == "Resize":
            return min(transform.scale), max(transform.scale)
    return None


def count_flops(model: torch.nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds for one RGB image of ``size`` (rows, columns)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *size, device="meta"), mode="tensor")
    return counter.get_total_flops() // 2  # PyTorch counts multiplication and addition apart


def count_detector_flops(model: torch.nn.Module, size: tuple[int, int]) -> int | None:
    """Multiply-adds for one RGB image, or ``None`` if the model cannot be run without values."""
    # DETR and its kin, and mask transformers, compute masks and positions on the host.
    if hasattr(model, "encoder") or hasattr(model, "panoptic_head"):
        return None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = model.extract_feat(torch.empty(1, 3, *size, device="meta"))
        if hasattr(model, "roi_head"):
            model.rpn_head(maps)
            _run_heads(model.roi_head.bbox_head, PROPOSALS, model.roi_head.bbox_roi_extractor)
            _run_heads(model.roi_head.mask_head, MASKS, model.roi_head.mask_roi_extractor)
        else:
            model.bbox_head(maps)
    return counter.get_total_flops() // 2


def _run_heads(heads: torch.nn.Module, count: int, extractors: torch.nn.Module) -> None:
    """Run the heads of all stages on ``count`` regions."""
    stages = isinstance(heads, torch.nn.ModuleList)
    extractor = extractors[0] if isinstance(extractors, torch.nn.ModuleList) else extractors
    side = extractor.roi_layers[0].output_size
    for head in heads if stages else [heads]:
        head(torch.empty(count, extractor.out_channels, *side, device="meta"))
