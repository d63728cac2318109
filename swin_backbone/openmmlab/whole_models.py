"""Segmentors and detectors, from a config and a checkpoint: the one way of all tools.

What is returned has been loaded, every tensor of it, and knows its classes and colours.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..checkpoints import CheckpointError
from ..checkpoints.read import CONTAINERS
from ..model.create import load_backbone
from .loaded_weights import load_weights
from .mmengine_configs import as_config_error, change_config, read_config

__all__ = ["build_whole_model", "is_detector", "kind_of", "load_backbone", "load_whole_model"]

#: What the models of a scope are.
KINDS = {"mmseg": "segmentor", "mmdet": "detector"}


def is_detector(cfg: Mapping) -> bool:
    """Whether a config is one of mmdet's, and not of mmseg's."""
    return kind_of(cfg) == "detector"


def kind_of(cfg: Mapping, name: str = "the config") -> str:
    """``'segmentor'`` or ``'detector'``.

    Args:
        cfg: a whole config.
        name: what messages call it.

    Raises:
        ValueError: if it has no model, or its scope is neither mmseg's nor mmdet's.
    """
    if not isinstance(cfg.get("model"), Mapping):
        raise ValueError(f"{name} has no model")
    scope = cfg.get("default_scope") or "mmseg"
    if scope not in KINDS:
        raise ValueError(
            f"{name} must be of a segmentor (default_scope 'mmseg') or of a detector ('mmdet'), "
            f"got default_scope {scope!r}"
        )
    return KINDS[scope]


def build_whole_model(
    cfg: Config, kind: str | None = None, *, for_training: bool = False
) -> nn.Module:
    """The model of a config, with fresh weights.

    Args:
        cfg: a whole config; it stays as it is.
        kind: what it has to be, ``'segmentor'`` or ``'detector'``; by default either.
        for_training: a segmentor keeps its ``train_cfg`` then.

    Returns:
        The model in evaluation mode, with the config as ``cfg``. The config's scope is the default
        one from now on.

    Raises:
        ValueError: if the config is of another kind, or its model cannot be built.
    """
    name = f"config {cfg.filename!r}" if cfg.filename else "the config"
    found = kind_of(cfg, name)
    if kind not in (None, found):
        raise ValueError(f"{name} must be of a {kind}, and is a {found}'s")
    scope = cfg.get("default_scope") or "mmseg"
    settings = copy.deepcopy(cfg.model)
    settings.pop("pretrained", None)
    if found == "segmentor" and not for_training:
        settings.train_cfg = None
    with as_config_error(f"the model of {name} cannot be built"):
        models = importlib.import_module(f"{scope}.registry").MODELS
        init_default_scope(scope)
        model = revert_sync_batchnorm(models.build(settings))
    model.cfg = cfg
    return model.eval()


def load_whole_model(
    config: str | Path | Config,
    checkpoint: str | Path | None,
    device: str = "cpu",
    *,
    kind: str | None = None,
    changes: Mapping | None = None,
    allow_missing: bool = False,
) -> nn.Module:
    """The model of a config with the weights of a checkpoint, ready to predict.

    Args:
        config: its path, or itself.
        checkpoint: path or address of its weights, with or without ``meta``; ``None`` for fresh
            weights, which nothing but an explicit wish should ask for.
        device: where it goes.
        kind: ``'segmentor'`` or ``'detector'``, where one of them is needed.
        changes: settings of the config that are changed, by their dotted names.
        allow_missing: warn of tensors that are missing or misfit, instead of raising an error.

    Returns:
        The model, with ``cfg`` and ``dataset_meta`` (``classes`` and ``palette``): the
        checkpoint's, or else those of the config's data set.

    Raises:
        FileNotFoundError: if the config or the checkpoint is not there.
        ValueError: if the config has no such model, or nobody knows the classes.
        CheckpointError: if a tensor of the model is missing, of another shape, or not finite.
    """
    if isinstance(config, Config):
        cfg = copy.deepcopy(config) if changes else config
        change_config(cfg, changes or {})
    else:
        cfg = read_config(config, changes)
    model = build_whole_model(cfg, kind)
    meta: Mapping = {}
    if checkpoint is not None:
        content = CheckpointLoader.load_checkpoint(str(checkpoint), map_location="cpu")
        state_dict, meta = _open(content, str(checkpoint))
        load_weights(model, state_dict, str(checkpoint), allow_missing)
    model.dataset_meta = _dataset_meta(cfg, meta, needed=checkpoint is not None)
    return model.to(device)


def _open(content: object, source: str) -> tuple[Mapping, Mapping]:
    """The tensors and the ``meta`` of what a checkpoint holds; either may be all there is."""
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"checkpoint {source!r} holds no tensors by name, but a {type(content).__name__}"
        )
    names = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
    tensors = content[names[0]] if names else content
    others = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others and not names:
        raise CheckpointError(
            f"checkpoint {source!r} holds no state dict; found {', '.join(map(str, others[:5]))}"
        )
    meta = content.get("meta")
    return tensors, meta if isinstance(meta, Mapping) else {}


def _dataset_meta(cfg: Config, meta: Mapping, needed: bool) -> dict:
    """Classes and colours: the checkpoint's, in the spellings of all versions, else the config's.

    mmseg would guess a data set by the number of classes, and else take Cityscapes; mmdet takes
    COCO.
    """
    own = meta.get("dataset_meta") or {name: meta.get(name) for name in ("CLASSES", "PALETTE")}
    own = {str(name).lower(): value for name, value in own.items() if value is not None}
    found = {**_config_meta(cfg), **own}
    wanted = ("classes", "palette") if kind_of(cfg) == "segmentor" else ("classes",)
    unknown = [name for name in wanted if not found.get(name)]
    if needed and unknown:
        raise ValueError(
            f"the checkpoint does not name its {' and '.join(unknown)}, so the config has to: "
            f"test_dataloader.dataset.metainfo=dict(classes=..., palette=...)"
        )
    return found


def _config_meta(cfg: Config) -> dict:
    """Classes and colours of the config's data set, if it has one."""
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}
    dataset = loader.get("dataset", {})
    while isinstance(dataset.get("dataset"), Mapping):  # wrappers
        dataset = dataset["dataset"]
    if "type" not in dataset:
        return {}
    scope = cfg.get("default_scope") or "mmseg"
    with as_config_error("the config's data set is not known"):
        kind = importlib.import_module(f"{scope}.registry").DATASETS.get(dataset["type"])
    known = {**(getattr(kind, "METAINFO", None) or {}), **(dataset.get("metainfo") or {})}
    return {str(name).lower(): value for name, value in known.items() if value}
