"""Backbones in folders and on the Hugging Face hub: weights, a config and a model card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..atomic_files import write_text, write_whole
from ..checkpoints.checkpoint_sources import HUB_PREFIX
from ..checkpoints.loading import require_backbone_weights
from ..extras import from_extra
from ..framework import framework
from ..ops.argument_checks import Text, show
from ..version import __version__
from .arguments import KINDS

T = TypeVar("T", bound="HubMethods")

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
#: What transformers finds the class of a config by.
MODEL_TYPE = "swin_backbone"
#: Arguments that say where weights come from, and so nothing of the model.
NOT_KEPT = ("init_cfg", "pretrained", "convert_weights")


class HubMethods:
    """Saving to and loading from folders and the hub, without OpenMMLab.

    Attributes:
        arguments: those that the backbone was made with, checked, all of them.
    """

    arguments: dict[str, Any]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and, where there is none, a model card.

        Args:
            folder: where; it is made if it is not there.

        Raises:
            ValueError: if an argument cannot be written as JSON.
            OSError: if a file cannot be written.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        config = json.dumps(self.hub_config(), indent=2) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(
            folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"})
        )
        write_text(folder / CONFIG, config)
        if not (folder / CARD).exists():
            write_text(folder / CARD, self._card())

    def hub_config(self) -> dict[str, Any]:
        """What ``config.json`` holds: the arguments, and what they are for."""
        kept = {name: _plain(v) for name, v in self.arguments.items() if name not in NOT_KEPT}
        config = {"model_type": MODEL_TYPE, "swin_backbone_version": __version__, **kept}
        try:
            json.dumps(config)
        except TypeError as error:
            raise ValueError(f"an argument cannot be written as JSON: {error}") from None
        return config

    @classmethod
    def from_pretrained(cls: type[T], source: str | Path, **options: Any) -> T:
        """A backbone that :meth:`save_pretrained` or :meth:`push_to_hub` wrote.

        Args:
            source: a folder, or the name of a repository of the hub, ``org/name``, optionally with
                ``@revision``.
            options: arguments of the backbone; they come before the saved ones.

        Returns:
            The backbone with its weights, in evaluation mode.

        Raises:
            FileNotFoundError: if there is no such folder or repository, or no config in it.
            ValueError: if the config is damaged, or of another model.
            CheckpointError: if weights are missing or do not fit.
            ModuleNotFoundError: if the hub is asked for, and ``huggingface_hub`` is not there.
        """
        source = Text("a folder, or a name on the hub")("source", _text(source))
        folder = Path(source)
        is_folder = folder.is_dir()
        config = folder / CONFIG if is_folder else _config_on_the_hub(source)
        arguments = {**_read(config), **options}
        weights = source if is_folder else f"{HUB_PREFIX}{source}"
        arguments["init_cfg"] = {"type": "Pretrained", "checkpoint": weights}
        model = framework().build(cls, {"type": cls.__name__, **arguments})
        model.init_weights()
        require_backbone_weights(model, False)
        return model.eval()

    def push_to_hub(
        self, repository: str, *, private: bool | None = None, token: str | None = None
    ) -> str:
        """Upload what :meth:`save_pretrained` writes.

        Args:
            repository: ``org/name``; it is made if it is not there.
            private: whether it is private, if it is made.
            token: of the hub; by default the one that was logged in with.

        Returns:
            The address of the commit.

        Raises:
            ModuleNotFoundError: if ``huggingface_hub`` is not installed.
        """
        with from_extra("hub"):
            import huggingface_hub
        api = huggingface_hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = api.upload_folder(repo_id=repository, folder_path=folder)
        return str(commit.commit_url)

    def _card(self) -> str:
        maps = ", ".join(
            f"{info.channels} channels at stride {info.stride[0]}" for info in self.features_info
        )
        return _CARD.format(version=self.arguments["version"].upper(), maps=maps)


def _plain(value: Any) -> Any:
    """As JSON has it: lists, and dicts that are no more."""
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _text(source: str | Path) -> object:
    return str(source) if isinstance(source, Path) else source


def _config_on_the_hub(source: str) -> Path:
    name, _, revision = source.partition("@")
    if name.count("/") != 1:
        raise FileNotFoundError(
            f"source must be a folder, or a name on the hub such as org/name, got {source!r}"
        )
    with from_extra("hub"):
        import huggingface_hub
    try:
        return Path(huggingface_hub.hf_hub_download(name, CONFIG, revision=revision or None))
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise FileNotFoundError(f"source {source!r} has no {CONFIG} on the hub: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    """The arguments of a backbone in a config file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"source has no {CONFIG}: {str(path)!r} is not a file") from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from None
    kind = config.pop("model_type", None) if isinstance(config, dict) else None
    if kind != MODEL_TYPE:
        raise ValueError(f"{str(path)!r} must have the model_type {MODEL_TYPE!r}, got {show(kind)}")
    # transformers adds what it knows of any model
    return {name: value for name, value in config.items() if name in KINDS}


_CARD = """---
library_name: swin_backbone
tags:
- swin-transformer
- feature-extraction
---

# Swin Transformer {version} backbone

Feature maps of images of any size: {maps}.

```python
from swin_backbone import SwinBackbone

model = SwinBackbone.from_pretrained("org/name")  # a folder, or a name on the hub
maps = model(images)  # (B, 3, H, W), normalised
```

What it was trained with, and the licence of the weights, belong here.
"""
