"""Where a checkpoint comes from: a path, an address, or a model hub."""

from __future__ import annotations

from pathlib import Path

import torch

HUB_PREFIX = "hf-hub:"
TIMM_PREFIX = "timm:"
#: Files that a repository of the hub may keep its weights in, in order of preference.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def fetch(source: str | Path) -> Path:
    """The local file of a checkpoint, downloaded once if it has to be.

    Args:
        source: a path; an http(s) address; ``hf-hub:org/name``, a repository of the Hugging
            Face hub, optionally with ``@revision``; or ``timm:name``, one of timm's models,
            with its tag (``timm:swin_tiny_patch4_window7_224.ms_in1k``) or, if timm is
            installed, without.

    Raises:
        ImportError: if a hub is asked for and ``huggingface_hub`` is not installed.
        ValueError: if the name of a repository or model has another form, or timm does not have
            the model.
        FileNotFoundError: if a repository has none of :data:`HUB_FILES`.
    """
    text = str(source)
    if text.startswith(("http://", "https://")):
        return _download(text)
    if text.startswith(HUB_PREFIX):
        return _download_from_hub(text.removeprefix(HUB_PREFIX))
    if text.startswith(TIMM_PREFIX):
        return _download_from_hub(f"timm/{_timm_name(text.removeprefix(TIMM_PREFIX))}")
    return Path(source).expanduser()


def _download(address: str) -> Path:
    """Fetch a file once into torch's checkpoint folder, with a progress bar."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / address.split("?")[0].rsplit("/", 1)[-1]
    if not path.exists():
        torch.hub.download_url_to_file(address, str(path))
    return path


def _download_from_hub(repository: str) -> Path:
    name, _, revision = repository.partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"a repository of the hub is named org/name, got {repository!r}")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"checkpoint {repository!r} is on the Hugging Face hub: pip install huggingface_hub"
        ) from error
    for filename in HUB_FILES:
        try:
            path = huggingface_hub.hf_hub_download(name, filename, revision=revision or None)
        except huggingface_hub.errors.EntryNotFoundError:
            continue
        return Path(path)
    raise FileNotFoundError(f"{repository!r} on the hub has none of {', '.join(HUB_FILES)}")


def _timm_name(name: str) -> str:
    """A timm model's name with its tag."""
    if "." in name:
        return name
    try:
        from timm.models import get_pretrained_cfg
    except ImportError as error:
        raise ValueError(
            f"give timm:{name} with its tag (name.tag), or install timm, which knows the default"
        ) from error
    config = get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not config.tag:
        raise ValueError(f"timm has no pretrained model {name!r}")
    return f"{name}.{config.tag}"
