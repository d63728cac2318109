"""What an exported model is made from: a model, and a card that describes it."""

from __future__ import annotations

from collections.abc import Mapping
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


def segmentor_and_card(
    config: str,
    checkpoint: str | None,
    options: Mapping | None = None,
    allow_missing: bool = False,
) -> tuple[nn.Module, ModelCard]:
    """The whole model of a config of mmsegmentation, from images to scores.

    Args:
        config: its path.
        checkpoint: its weights; random ones by default.
        options: settings of the config that are changed.
        allow_missing: go on with tensors that the checkpoint does not have.

    Raises:
        FileNotFoundError: if the config or checkpoint is not there.
        ValueError: if the config is a detector's, or its head has one output.
    """
    from ..openmmlab.mmengine_configs import read_config
    from ..openmmlab.whole_models import is_detector, load_whole_model

    for name, path in (("config", config), ("checkpoint", checkpoint)):
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"{name} {path!r} is not a file")
    cfg = read_config(config, options)
    if is_detector(cfg):
        raise ValueError(f"{config} is a detector's: export its backbone, --part backbone")
    segmentor = load_whole_model(cfg, checkpoint, allow_missing=allow_missing)
    if segmentor.decode_head.out_channels < 2:
        raise ValueError(f"the decode head of {config} must have at least two output channels")
    meta = segmentor.dataset_meta
    model = SegmentorLogits(segmentor).eval()
    card = ModelCard(
        name=Path(config).stem,
        kind="segmentor",
        strides=((1, 1),),
        output_channels=(segmentor.decode_head.out_channels,),
        classes=tuple(meta.get("classes", ())),
        palette=tuple(map(tuple, meta.get("palette", ()))),
        **_preprocessing(segmentor.cfg),
    )
    return model, card


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
    for step in cfg.get("test_pipeline", []):
        if step["type"] == "Resize":
            fields["resize"] = tuple(step["scale"])
            fields["keep_aspect"] = bool(step.get("keep_ratio", False))
    return fields
