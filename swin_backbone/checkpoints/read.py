"""Read a checkpoint file, and find the backbone's tensors in it. No code in it is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .report import CheckpointError
from .sources import fetch

#: Keys under which trainers put a model's tensors, in order of preference.
CONTAINERS = ("state_dict", "model", "state_dict_ema", "model_ema")

#: How the convolution of the patch embedding ends in every layout: what is before is a prefix.
LANDMARKS = (
    "patch_embed.projection.weight",
    "patch_embed.proj.weight",
    "features.0.0.weight",
    "embeddings.patch_embeddings.projection.weight",
)


def read_checkpoint(source: str | Path, map_location="cpu"):
    """Read a ``.pth``, ``.bin`` or ``.safetensors`` file.

    Args:
        source: a path, an http(s) address, ``hf-hub:org/name`` or ``timm:name``, see
            :func:`swin_backbone.checkpoints.sources.fetch`.
        map_location: where its tensors go, as in :func:`torch.load`.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file is damaged, or holds objects other than tensors, plain
            containers and what was allowed with :func:`torch.serialization.add_safe_globals`.
    """
    path = fetch(source)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {str(source)!r} is not a file")
    try:
        if _is_safetensors(path):
            return _read_safetensors(path, map_location)
        return torch.load(path, map_location=map_location, weights_only=True)
    except OSError:  # of the disk, not of the file's content
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unreadable(path, error)) from error
    except Exception as error:  # damaged bytes can fail at any place of a parser
        raise CheckpointError(
            f"checkpoint {str(source)!r} is truncated or no PyTorch file: {error}"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """The format begins with the length of a header, in 8 bytes, and the header with a brace."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path, map_location) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    device = map_location if isinstance(map_location, (str, torch.device)) else "cpu"
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error


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
        checkpoint: a state dict, or a dict that holds one under ``state_dict``, ``model`` or,
            if there are only averaged weights, ``state_dict_ema`` or ``model_ema``; of a
            backbone, or of any model that has one, such as a segmentor, a detector, a wrapper
            or a pretraining method.

    Returns:
        The backbone's tensors, and for each key that is not the backbone's, why it is ignored.

    Raises:
        CheckpointError: if there are no tensors in it, or several backbones.
    """
    tensors = _unwrap(checkpoint)
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    prefix = _find_prefix(tensors)
    inside, ignored = {}, {}
    for key, value in tensors.items():
        if key == "n_averaged":
            ignored[key] = "counts the steps of averaged weights"
        elif key.startswith(prefix):
            inside[key.removeprefix(prefix)] = value
        else:
            ignored[key] = f"belongs to the model's {key.split('.')[0]}"
    return inside, ignored


def _find_prefix(tensors: Mapping[str, Tensor]) -> str:
    """What is before the backbone's keys in a whole model; empty if it is no whole model."""
    prefixes = set()
    for key in tensors:
        for landmark in LANDMARKS:
            prefix = key.removesuffix(landmark)
            if prefix != key and (not prefix or prefix.endswith(".")):
                # Part of transformers' layout, whose output norms are beside it.
                prefixes.add(prefix.removesuffix("swin.").removesuffix("swinv2."))
    for preferred in ("", "backbone."):
        if preferred in prefixes:
            return preferred
    if len(prefixes) > 1:
        raise CheckpointError(
            f"checkpoint holds several backbones, under {sorted(prefixes)}; keep one of them"
        )
    if prefixes:
        return prefixes.pop()
    return "backbone." if any(key.startswith("backbone.") for key in tensors) else ""


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
