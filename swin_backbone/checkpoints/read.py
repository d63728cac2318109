"""Read a checkpoint file, and find the backbone's tensors in it. No code in it is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .report import CheckpointError

#: Keys under which trainers put a model's tensors, in order of preference.
CONTAINERS = ("state_dict", "model")


def read_checkpoint(source: str | Path, map_location="cpu"):
    """Read a ``.pth`` file from a path or an http(s) address.

    Args:
        source: path or address.
        map_location: where its tensors go, as in :func:`torch.load`.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file is damaged, or holds objects other than tensors, plain
            containers and what was allowed with :func:`torch.serialization.add_safe_globals`.
    """
    if str(source).startswith(("http://", "https://")):
        path = _download(str(source))
    else:
        path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {str(source)!r} is not a file")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unreadable(path, error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"checkpoint {str(source)!r} is truncated or no PyTorch file: {error}"
        ) from error


def _download(address: str) -> Path:
    """Fetch a file once into torch's checkpoint folder, with a progress bar."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / address.split("?")[0].rsplit("/", 1)[-1]
    if not path.exists():
        torch.hub.download_url_to_file(address, str(path))
    return path


def _unreadable(path: Path, error: Exception) -> str:
    reason = str(error)
    if "Unsupported global" not in reason and "GLOBAL" not in reason:
        return f"checkpoint {str(path)!r} is truncated or no PyTorch file: {reason}"
    return (
        f"checkpoint {str(path)!r} holds objects that could execute code, so it is not loaded: "
        f"{reason} If you trust the file, allow the class by name with "
        f"torch.serialization.add_safe_globals([...])."
    )


def find_backbone(checkpoint: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Take the backbone's tensors out of whatever a trainer saved.

    Args:
        checkpoint: a state dict, or a dict that holds one under ``state_dict`` or ``model``; of
            a backbone, or of a segmentor or detector whose keys begin with ``backbone.``;
            possibly saved from a wrapper, with keys that begin with ``module.``.

    Returns:
        The backbone's tensors, and for each key that is not the backbone's, why it is ignored.

    Raises:
        CheckpointError: if there are no tensors in it.
    """
    tensors = _unwrap(checkpoint)
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    if not any(key.startswith("backbone.") for key in tensors):
        return tensors, {}
    inside, ignored = {}, {}
    for key, value in tensors.items():
        if key.startswith("backbone."):
            inside[key.removeprefix("backbone.")] = value
        else:
            ignored[key] = f"belongs to the model's {key.split('.')[0]}"
    return inside, ignored


def _unwrap(checkpoint: object) -> dict[str, Tensor]:
    if isinstance(checkpoint, Mapping):
        for name in CONTAINERS:
            if isinstance(checkpoint.get(name), Mapping):
                return _unwrap(checkpoint[name])
        tensors = {k: v for k, v in checkpoint.items() if isinstance(v, Tensor)}
        if tensors and len(tensors) == len(checkpoint):
            return tensors
    kind = type(checkpoint).__name__
    found = list(checkpoint)[:5] if isinstance(checkpoint, Mapping) else kind
    raise CheckpointError(f"checkpoint holds no state dict of tensors; found {found}")
