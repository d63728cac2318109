"""What mmengine adds to the core, behind the core's own questions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import nn

from ..checkpoints import CheckpointError
from ..framework import Framework
from .mmengine_configs import read_config


class MMEngine(Framework):
    """mmengine's registries, configs, addresses and logger.

    Args:
        safe_loaders: whether mmengine's loaders are those of :mod:`.safe_checkpoints`. Without
            them, files and addresses that we can read are not given to mmengine's.
    """

    config_types = (Mapping, Config)
    other_layers = "one registered in mmengine's MODELS"

    def __init__(self, safe_loaders: bool = True):
        self.safe_loaders = safe_loaders

    def log(self, message: str, level: int = logging.INFO) -> None:
        """Write to mmengine's current logger."""
        print_log(message, logger="current", level=level)

    def find_layer(self, name: str) -> Callable[..., nn.Module] | None:
        """The layer that is registered with a name, in whatever scope is the default one."""
        return MODELS.get(name)

    def find_model(self, name: str) -> type | None:
        """The model that is registered with a name."""
        return MODELS.get(name)

    def build(self, kind: Callable[..., nn.Module], settings: Mapping) -> nn.Module:
        """Build from the registry, in the scope that the settings name."""
        return MODELS.build(dict(settings))

    def is_pretrained(self, name: object) -> bool:
        """Whether a class, or the name of one in any scope, is ``PretrainedInit``."""
        if not isinstance(name, str):
            return name is PretrainedInit
        try:
            found = WEIGHT_INITIALIZERS.get(_registered(name))
        except RuntimeError:  # how mmengine says that it cannot import a name
            return False
        return found is PretrainedInit

    def read_checkpoint(self, source: str, map_location: object = "cpu") -> object:
        """What a path or an address of any kind holds.

        mmengine's own loaders read its kinds of addresses, ``torchvision://``, ``open-mmlab://``,
        ``mmcls://``, ``s3://`` and all that are registered with its ``CheckpointLoader``. Paths,
        http, the hub and timm are read by :func:`swin_backbone.checkpoints.read_checkpoint`.

        Raises:
            CheckpointError: if a catalogue of mmengine has no model of this name.
        """
        if not self.safe_loaders and self.reads(source):
            return super().read_checkpoint(source, map_location)
        try:
            return CheckpointLoader.load_checkpoint(source, map_location)
        except KeyError as error:
            raise CheckpointError(f"mmengine's catalogue has no {error} ({source!r})") from error

    def read_config(self, path: str | Path) -> Config:
        """The config of a file, with its bases."""
        return read_config(path)


def _registered(kind: str) -> str:
    """``mmengine.PretrainedInit`` by the name in the registry; anything else as it is."""
    scope, _, name = kind.rpartition(".")
    return f"{scope}.Pretrained" if "." not in scope and name == "PretrainedInit" else kind
