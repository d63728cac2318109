"""A backbone in one call, without a config file or a runner."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from .backbone import SwinBackbone
from .model_names import arguments_of
from .ops.kinds import Optional, Text, show


def create(
    name_or_config: str | Path | Mapping,
    checkpoint: str | None = None,
    *,
    prefix: str | None = None,
    key: str | None = None,
    **options: Any,
) -> SwinBackbone:
    """Make a backbone, load its weights, and put it into evaluation mode.

        model = swin_backbone.create("tiny", "swin_tiny_patch4_window7_224.pth")
        maps = model(images)
        [(info.channels, info.stride) for info in model.features_info]

    Args:
        name_or_config: an architecture (``'tiny'``, ``'swinv2_tiny_window8'``, ...; see
            :func:`swin_backbone.list_architectures`); a name in
            :func:`swin_backbone.list_checkpoints`, for that architecture with those weights; the
            path of a config (its ``model.backbone`` is taken); or a config: a whole one, or the
            backbone's alone with a ``type``.
        checkpoint: path or address of weights, of the backbone or of a whole model; by default
            those that the name stands for or the config's ``init_cfg`` names, or random ones.
        prefix: which backbone of the checkpoint, if it holds several, and
        key: which of its state dicts; see :func:`swin_backbone.checkpoints.find_backbone`.
        options: arguments of the backbone; they come before the config's.

    Returns:
        The backbone, in evaluation mode.

    Raises:
        ValueError: if the name is unknown, the config has no backbone or another's, or ``prefix``
            or ``key`` is given and there is no checkpoint.
        TypeError: if an argument is of another kind, or an option is unknown.
        CheckpointError: if the checkpoint is damaged or does not fit.
        FileNotFoundError: if the config or checkpoint is not there.
    """
    checkpoint = Optional(Text("a path or an address"))("checkpoint", checkpoint)
    settings = {**_backbone_config(name_or_config), **options}
    _check_type(settings["type"])
    if checkpoint is not None:
        settings.pop("pretrained", None)
        settings["init_cfg"] = {"type": "Pretrained", "checkpoint": checkpoint}
    choice = {k: v for k, v in (("prefix", prefix), ("key", key)) if v is not None}
    if choice:
        if not settings.get("init_cfg"):
            raise ValueError(f"{' and '.join(choice)} choose from a checkpoint; none is given")
        settings["init_cfg"] = {**settings["init_cfg"], **choice}
    model = MODELS.build(settings)
    model.init_weights()
    return model.eval()


def _check_type(name: Any) -> None:
    """Raise unless a config's ``type`` is this backbone, or a class made from it."""
    found = MODELS.get(name) if isinstance(name, str) else name
    if not (isinstance(found, type) and issubclass(found, SwinBackbone)):
        raise ValueError(
            f"name_or_config must have a backbone of type 'SwinBackbone', got type={show(name)}"
        )


def _backbone_config(source: str | Path | Mapping) -> dict[str, Any]:
    """The backbone's own settings."""
    if isinstance(source, Mapping | Config):
        return _find_backbone(source, "the config")
    if not isinstance(source, str | PathLike):
        raise TypeError(
            f"name_or_config must be a name, a config or the path of one, got {show(source)}"
        )
    if str(source).endswith(".py"):
        if not Path(source).is_file():
            raise FileNotFoundError(f"config {str(source)!r} is not a file")
        return _find_backbone(Config.fromfile(source), str(source))
    return {"type": "SwinBackbone", **arguments_of(str(source))}


def _find_backbone(config: Mapping | Config, what: str) -> dict[str, Any]:
    model = config.get("model", config)
    backbone = model.get("backbone", model) if isinstance(model, Mapping | Config) else model
    if not isinstance(backbone, Mapping | Config):
        raise TypeError(
            f"name_or_config must have a dict as its model.backbone, got {show(backbone)}"
        )
    if "type" not in backbone:
        raise ValueError(
            f"name_or_config must name a backbone: {what} has no model.backbone, and no 'type' of "
            f"its own"
        )
    return dict(backbone)
