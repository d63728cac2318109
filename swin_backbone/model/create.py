"""A backbone in one call, without a config file or a runner."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ..checkpoints.loading import require_backbone_weights
from ..config_errors import as_config_error
from ..framework import framework
from ..ops.argument_checks import Optional, Text, show
from .backbone import SwinBackbone
from .presets import arguments_of


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
        ModuleNotFoundError: for the path of a config where mmengine, which reads it, is not there.
    """
    checkpoint = Optional(Text("a path or an address"))("checkpoint", checkpoint)
    settings = {**_backbone_config(name_or_config), **options}
    kind = _class_of(settings["type"])
    if checkpoint is not None:
        settings.pop("pretrained", None)
        settings["init_cfg"] = {"type": "Pretrained", "checkpoint": checkpoint}
    choice = {k: v for k, v in (("prefix", prefix), ("key", key)) if v is not None}
    if choice:
        if not settings.get("init_cfg"):
            raise ValueError(f"{' and '.join(choice)} choose from a checkpoint; none is given")
        settings["init_cfg"] = {**settings["init_cfg"], **choice}
    model = framework().build(kind, settings)
    model.init_weights()
    return model.eval()


def load_backbone(
    source: str | Path | Mapping,
    checkpoint: str | None = None,
    *,
    allow_missing: bool = False,
    **options: Any,
) -> SwinBackbone:
    """A backbone by itself with all of its weights: :func:`create` for tools.

    Args:
        source: an architecture's or a checkpoint's name, the path of a config, or a config.
        checkpoint: path or address of weights; by default the config's own, or fresh ones.
        allow_missing: go on with tensors that the checkpoint does not have.
        options: arguments of the backbone; they come before the config's.

    Raises:
        FileNotFoundError: if the config or the checkpoint is not there.
        ModuleNotFoundError: if ``source`` is the path of a config, and mmengine is not there.
        ValueError: if the name is not known, or the config's backbone cannot be built.
        CheckpointError: if tensors of the backbone are missing or do not fit.
    """
    is_config = isinstance(source, framework().config_types)
    name = str((getattr(source, "filename", None) or "the config") if is_config else source)
    if not is_config and name.endswith(".py"):
        source = framework().read_config(source)
    with as_config_error(f"the backbone of {name} cannot be made"):
        backbone = create(source, checkpoint, **options)
    require_backbone_weights(backbone, allow_missing)
    return backbone


def _class_of(name: Any) -> type[SwinBackbone]:
    """What a config's ``type`` names: this backbone, or a class made from it."""
    found = name
    if isinstance(name, str):
        found = framework().find_model(name)
        if found is None and name.split(".")[-1] == SwinBackbone.__name__:
            found = SwinBackbone
    if not (isinstance(found, type) and issubclass(found, SwinBackbone)):
        raise ValueError(
            f"name_or_config must have a backbone of type 'SwinBackbone', got type={show(name)}"
        )
    return found


def _backbone_config(source: str | Path | Mapping) -> dict[str, Any]:
    """The backbone's own settings."""
    if isinstance(source, framework().config_types):
        return _find_backbone(source, "the config")
    if not isinstance(source, str | PathLike):
        raise TypeError(
            f"name_or_config must be a name, a config or the path of one, got {show(source)}"
        )
    if str(source).endswith(".py"):
        return _find_backbone(framework().read_config(source), str(source))
    return {"type": "SwinBackbone", **arguments_of(str(source))}


def _find_backbone(config: Mapping, what: str) -> dict[str, Any]:
    configs = framework().config_types
    model = config.get("model", config)
    backbone = model.get("backbone", model) if isinstance(model, configs) else model
    if not isinstance(backbone, configs):
        raise TypeError(
            f"name_or_config must have a dict as its model.backbone, got {show(backbone)}"
        )
    if "type" not in backbone:
        raise ValueError(
            f"name_or_config must name a backbone: {what} has no model.backbone, and no 'type' of "
            f"its own"
        )
    return dict(backbone)
