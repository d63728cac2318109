"""What the core asks of the framework around it: the one place where it meets OpenMMLab.

The core needs torch alone. Where mmengine is there, :func:`swin_backbone.openmmlab.connect` puts a
framework of its own here, which looks up names in mmengine's registries, reads its configs and
its kinds of addresses, and writes to its logger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from .checkpoints import read_checkpoint

INSTALL = (
    "install one line of OpenMMLab: pip install 'swin-backbone[onedl]' (maintained, the default) "
    "or pip install 'swin-backbone[openmmlab]' (classic)"
)
_LOGGER = logging.getLogger(__package__)
#: Scopes with which configs of OpenMMLab name ``Pretrained``.
_SCOPES = ("mmengine", "mmseg", "mmdet", "mmpretrain")
#: What :func:`swin_backbone.checkpoints.read_checkpoint` reads beside paths and hubs.
_SCHEMES = ("http", "https", "file")


class Framework:
    """PyTorch alone.

    Attributes:
        config_types: what counts as a config.
        other_layers: for messages, what ``norm_cfg`` and ``act_cfg`` can name beside our layers.
    """

    config_types: tuple[type, ...] = (Mapping,)
    other_layers = "a class (other names need mmengine, which is not installed, or switched off)"

    def log(self, message: str, level: int = logging.INFO) -> None:
        """Write to the logger ``swin_backbone``."""
        _LOGGER.log(level, message)

    def find_layer(self, name: str) -> Callable[..., nn.Module] | None:
        """What makes the layer of a registered name; ``None`` where the name is not known."""
        return None

    def find_model(self, name: str) -> type | None:
        """The class of a registered name; ``None`` where the name is not known."""
        return None

    def build(self, kind: Callable[..., nn.Module], settings: Mapping) -> nn.Module:
        """Make what a config describes.

        Args:
            kind: what its ``type`` stands for.
            settings: the config, ``type`` included.
        """
        return kind(**{k: v for k, v in settings.items() if k not in ("type", "_scope_")})

    def is_pretrained(self, name: object) -> bool:
        """Whether a dotted name, or a class, is mmengine's ``PretrainedInit``.

        Args:
            name: the ``type`` of an ``init_cfg``; of a name, the last part is known to be right.
        """
        return isinstance(name, str) and name.split(".")[0] in _SCOPES

    @staticmethod
    def reads(source: str) -> bool:
        """Whether an address is of a kind that we read ourselves."""
        scheme, separator, _ = source.partition("://")
        return not separator or scheme in _SCHEMES

    def read_checkpoint(self, source: str, map_location: object = "cpu") -> object:
        """What a path or an address holds.

        Raises:
            ModuleNotFoundError: for an address that only mmengine knows.
        """
        if not self.reads(source):
            raise _needs_mmengine(f"checkpoint {source!r}")
        return read_checkpoint(source, map_location)

    def read_config(self, path: str | Path) -> Mapping:
        """The config of a file.

        Raises:
            FileNotFoundError: if there is no such file.
            ModuleNotFoundError: without mmengine.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"config {str(path)!r} is not a file")
        raise _needs_mmengine(f"config {str(path)!r}")


def _needs_mmengine(what: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{what} is read by mmengine, which is not installed, or switched off; {INSTALL}",
        name="mmengine",
    )


_current = Framework()


def framework() -> Framework:
    """The framework around us."""
    return _current


def use_framework(chosen: Framework) -> None:
    """Make a framework the one around us."""
    global _current
    _current = chosen
