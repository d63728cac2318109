"""Where a checkpoint comes from: a path, an address, or a model hub."""

from __future__ import annotations

from pathlib import Path
from urllib.request import url2pathname

from .downloads import download
from .folders import INDEX, WEIGHT_FILES, pieces_of

FILE_PREFIX = "file://"
HUB_PREFIX = "hf-hub:"
TIMM_PREFIX = "timm:"


def fetch(source: str | Path) -> Path:
    """The local file of a checkpoint, downloaded once if it has to be.

    Args:
        source: a path, with or without ``file://``; an http(s) address; ``hf-hub:org/name``, a
            repository of the Hugging Face hub, optionally with ``@revision``; or ``timm:name``,
            one of timm's models, with its tag (``timm:swin_tiny_patch4_window7_224.ms_in1k``) or,
            if timm is installed, without.

    Raises:
        ImportError: if a hub is asked for and ``huggingface_hub`` is not installed.
        ValueError: if the name of a repository or model has another form, or timm does not have
            the model.
        CheckpointError: if an address does not send a whole checkpoint.
        FileNotFoundError: if a repository has none of
            :data:`~swin_backbone.checkpoints.folders.WEIGHT_FILES`.
    """
    text = str(source)
    if text.startswith(("http://", "https://")):
        return download(text)
    if text.startswith(FILE_PREFIX):
        return Path(url2pathname(text.removeprefix(FILE_PREFIX).removeprefix("localhost")))
    if text.startswith(HUB_PREFIX):
        return _download_from_hub(text.removeprefix(HUB_PREFIX))
    if text.startswith(TIMM_PREFIX):
        return _download_from_hub(f"timm/{_timm_name(text.removeprefix(TIMM_PREFIX))}")
    return Path(source).expanduser()


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

    def get(filename: str) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, filename, revision=revision or None))

    for filename in WEIGHT_FILES:
        try:
            path = get(filename)
        except huggingface_hub.errors.EntryNotFoundError:
            continue
        if filename.endswith(INDEX):
            for piece in sorted(set(pieces_of(path).values())):
                get(piece)  # comes to lie beside the index
        return path
    raise FileNotFoundError(f"{repository!r} on the hub has none of {', '.join(WEIGHT_FILES)}")


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
