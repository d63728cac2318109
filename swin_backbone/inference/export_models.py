"""What an exported model is made from: a model, and a card that describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from .. import __version__
from ..model.create import load_backbone
from ..model.presets import arguments_of
from .export import ModelCard, SegmentorLogits
from .preprocessing import preprocessing_of


def backbone_and_card(
    source: str,
    checkpoint: str | None,
    options: Mapping | None = None,
    allow_missing: bool = False,
) -> tuple[nn.Module, ModelCard]:
    """The backbone of a config, or of an architecture's name.

    Args:
        source: path or name.
        checkpoint: its weights; by default the config's own, or random ones.
        options: settings of the config that are changed, ``{"model.backbone.KEY": value}``.
        allow_missing: go on with tensors that the checkpoint does not have.
    """
    cfg = _backbone_config(source, options or {})
    model = load_backbone(cfg, checkpoint, allow_missing=allow_missing)
    info = model.features_info
    card = ModelCard(
        name=Path(source).stem,
        kind="backbone",
        strides=tuple(entry.stride for entry in info),
        output_channels=tuple(entry.channels for entry in info),
        **_preprocessing(cfg),
    )
    return model, card


def whole_model_and_card(
    config: str,
    checkpoint: str | None,
    options: Mapping | None = None,
    allow_missing: bool = False,
) -> tuple[nn.Module, ModelCard]:
    """The whole model of a config: of mmsegmentation's from images to scores, of mmdetection's its
    detector, which :func:`swin_backbone.inference.export.detections` makes exportable.

    Args:
        config: its path.
        checkpoint: its weights; random ones by default.
        options: settings of the config that are changed.
        allow_missing: go on with tensors that the checkpoint does not have.

    Raises:
        FileNotFoundError: if the config or checkpoint is not there.
        ValueError: if a segmentor's head has one output, or the classes are not known.
    """
    from ..openmmlab.mmengine_configs import read_config
    from ..openmmlab.whole_models import is_detector, load_whole_model

    for name, path in (("config", config), ("checkpoint", checkpoint)):
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"{name} {path!r} is not a file")
    cfg = read_config(config, options)
    model = load_whole_model(cfg, checkpoint, allow_missing=allow_missing)
    meta = model.dataset_meta
    fields = {
        "name": Path(config).stem,
        "classes": tuple(meta.get("classes", ())),
        "palette": tuple(map(tuple, meta.get("palette", ()))),
        **_preprocessing(model.cfg),
    }
    if is_detector(cfg):
        from mmdet.utils import get_test_pipeline_cfg

        # mmdet prepares an image as the data of its test, which may differ from the variable.
        if "test_dataloader" in cfg:
            fields |= _resize(get_test_pipeline_cfg(cfg))
        fields["mask_threshold"] = _mask_threshold(model)
        return model, ModelCard(kind="detector", strides=(), output_channels=(), **fields)
    channels = model.decode_head.out_channels
    if channels < 2:
        raise ValueError(f"the decode head of {config} must have at least two output channels")
    card = ModelCard(kind="segmentor", strides=((1, 1),), output_channels=(channels,), **fields)
    return SegmentorLogits(model).eval(), card


def _mask_threshold(detector: nn.Module) -> float | None:
    """Probability from which a pixel belongs to an object; ``None`` without masks."""
    if not getattr(detector, "with_mask", False):
        return None
    return float(detector.roi_head.test_cfg["mask_thr_binary"])


def _backbone_config(source: str, options: Mapping) -> Mapping:
    """The config of a path, or of a name; only a config, or changes to one, need mmengine."""
    if not source.endswith(".py"):
        plain = {"model": {"backbone": {"type": "SwinBackbone", **arguments_of(source)}}}
        if not options:
            return plain
    from mmengine.config import Config

    from ..openmmlab.mmengine_configs import change_config, read_config

    if source.endswith(".py"):
        return read_config(source, options)
    cfg = Config(plain)
    change_config(cfg, options)
    return cfg


def _preprocessing(cfg: Mapping) -> dict:
    """Fields of the card that say how an image becomes the input."""
    fields = {**preprocessing_of(cfg)._asdict(), "version": __version__}
    return fields | _resize(cfg.get("test_pipeline", []))


def _resize(pipeline: Sequence[Mapping]) -> dict:
    """Fields of the card that say how a test pipeline resizes an image."""
    fields = {}
    for step in pipeline:
        if step["type"] == "Resize":
            factor = step.get("scale_factor")
            if factor is not None:
                pair = isinstance(factor, (tuple, list))
                fields["resize_factor"] = tuple(factor) if pair else (factor, factor)
            else:
                fields["resize"] = tuple(step["scale"])
            fields["keep_aspect"] = bool(step.get("keep_ratio", False))
    return fields
