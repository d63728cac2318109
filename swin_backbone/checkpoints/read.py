"""Read a checkpoint file, and find the backbone's tensors in it. No code in it is executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from .checkpoint_report import CheckpointError
from .checkpoint_sources import fetch
from .folders import INDEX, find_weights, join_pieces
from .safe_pickle import UnknownNameError, UnsafePickleError
from .torch_files import Mover, mover, read_pickles, read_safetensors, read_zip
from .unsupported_files import describe_unsupported_file

#: Keys under which trainers put a model's tensors, in order of preference: averaged ones last.
CONTAINERS = (
    *("state_dict", "model", "model_state_dict", "module", "net", "params"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"),
)

#: How many of them may stand in each other.
DEEPEST = 8

#: How the convolution of the patch embedding ends in every layout: what is before is a prefix.
LANDMARKS = (
    "patch_embed.projection.weight",
    "patch_embed.proj.weight",
    "features.0.0.weight",
    "embeddings.patch_embeddings.projection.weight",
)


def read_checkpoint(source: str | Path | BinaryIO, map_location="cpu"):
    """Read a ``.pth``, ``.bin``, ``.safetensors`` or ``.pkl`` file, or a folder with one.

    Args:
        source: a path, an http(s) address, ``hf-hub:org/name`` or ``timm:name``, see
            :func:`swin_backbone.checkpoints.checkpoint_sources.fetch`; a folder as
            ``save_pretrained`` of transformers writes it, or the index of its pieces; or a file
            that is open in binary mode and can be searched.
        map_location: where its tensors go, as in :func:`torch.load`.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if ``source`` or ``map_location`` is something else.
        CheckpointError: if the file is damaged, claims more than it has, is of another kind, or
            holds objects other than tensors, arrays of plain numbers, plain containers and what
            was allowed with :func:`torch.serialization.add_safe_globals`.
        ImportError: if it is a safetensors file, and safetensors is not installed.
    """
    move = mover(map_location)
    if not isinstance(source, str | Path):
        if not hasattr(source, "seek"):
            raise TypeError(f"source must be a path, an address or an open file, got {source!r}")
        return _read_file(source, getattr(source, "name", "checkpoint"), move)
    path = fetch(source)
    if path.is_dir():
        path = find_weights(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {str(source)!r} is not a file")
    if path.name.endswith(INDEX):
        return join_pieces(path, lambda piece: read_checkpoint(piece, map_location))
    with path.open("rb") as file:
        return _read_file(file, str(path), move)


def _read_file(file: BinaryIO, name: str, move: Mover):
    beginning = file.read(512)
    file.seek(0)
    try:
        if beginning[8:9] == b"{":  # behind the length of a header, in 8 bytes
            return read_safetensors(file, move)
        if beginning.startswith(b"PK"):
            return read_zip(file, move)
        return read_pickles(file, move)
    except (OSError, ImportError):  # not of the file's content
        raise
    except UnknownNameError as error:
        raise CheckpointError(
            f"checkpoint {name!r} holds objects that could execute code, so it is not loaded: it "
            f"names {error}. If you trust the file, allow the class by name with "
            f"torch.serialization.add_safe_globals([...])."
        ) from error
    except Exception as error:  # damaged bytes can fail at any place of a parser
        kind = describe_unsupported_file(beginning)
        reason = str(error) or type(error).__name__
        if kind is not None:
            message = f"is {kind}"
        elif isinstance(error, UnsafePickleError):
            message = f"is damaged, or asks for more than a checkpoint may: {reason}"
        else:
            message = f"is truncated or no PyTorch file: {reason}"
        raise CheckpointError(f"checkpoint {name!r} {message}") from error


def find_backbone(
    checkpoint: object, prefix: str | None = None, key: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Take the backbone's tensors out of whatever a trainer saved.

    Args:
        checkpoint: a state dict, or a dict that holds one under a name; of a backbone, or of any
            model that has one, such as a segmentor, a detector, a wrapper or a pretraining
            method.
        prefix: what is in front of the backbone's keys, or of those of a part of the model that
            has one backbone (``'student.'``, ``'teacher.backbone'``), as in mmengine; ``''`` for
            a backbone with nothing in front. ``None`` finds it, if there is only one.
        key: the name that the state dict stands under; ``None`` takes the first of
            :data:`CONTAINERS` or, if there is none of them, the only entry that holds tensors.

    Returns:
        The backbone's tensors, and for each key that is not the backbone's, why it is ignored.

    Raises:
        CheckpointError: if there are no tensors in it, several state dicts of unknown names,
            several backbones, or nothing under ``prefix`` or ``key``.
        TypeError: if ``prefix`` or ``key`` is no text.
    """
    for name, value in (("prefix", prefix), ("key", key)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be text or None, got {value!r}")
    tensors, ignored = _unwrap(checkpoint, key)
    tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    found = _backbones(tensors)
    before = _choose(tensors, found, prefix)
    others = tuple(other for other in found if other != before and other.startswith(before))
    beside = _norms_of_omdet(tensors, before)
    inside = {}
    for name, value in tensors.items():
        if name in beside:
            inside[beside[name]] = value
        elif name == "n_averaged":
            ignored[name] = "counts the steps of averaged weights"
        elif others and name.startswith(others):
            ignored[name] = "belongs to another backbone"
        elif name.startswith(before):
            inside[name.removeprefix(before)] = value
        else:
            ignored[name] = f"belongs to the model's {name.split('.')[0]}"
    return inside, ignored


def _backbones(tensors: Mapping[str, Tensor]) -> set[str]:
    """What is in front of the keys of each backbone."""
    found = set()
    for key in tensors:
        for landmark in LANDMARKS:
            prefix = key.removesuffix(landmark)
            if prefix != key and (not prefix or prefix.endswith(".")):
                found.add(_with_norms_beside(prefix, tensors))
    return found


def _with_norms_beside(prefix: str, tensors: Mapping[str, Tensor]) -> str:
    """A prefix without its last part, where transformers has output norms beside that part."""
    for part in ("swin.", "swinv2.", "model."):
        outer = prefix.removesuffix(part)
        norms = f"{outer}hidden_states_norms."
        if outer != prefix and (part != "model." or any(key.startswith(norms) for key in tensors)):
            return outer
    return prefix


def _norms_of_omdet(tensors: Mapping[str, Tensor], before: str) -> dict[str, str]:
    """Our names of the maps' norms, by key, where they are outside of a backbone of timm's.

    transformers' OmDet-Turbo numbers them by map; the channels say which stage's map it is.
    """
    outer = before.removesuffix("_backbone.").removesuffix("vision_backbone.")
    projection = tensors.get(f"{before}patch_embed.proj.weight")
    if projection is None or before not in (
        f"{outer}vision_backbone._backbone.",
        f"{outer}vision_backbone.",
    ):
        return {}
    norms = {}
    for key, value in tensors.items():
        found = re.fullmatch(re.escape(outer) + r"layer_norms\.\d+\.(weight|bias)", key)
        if found:
            stage = (value.numel() // projection.shape[0]).bit_length() - 1
            norms[key] = f"norm{stage}.{found[1]}"
    return norms


def _choose(tensors: Mapping[str, Tensor], found: set[str], wanted: str | None) -> str:
    """What is before the backbone's keys in a whole model; empty if it is no whole model."""
    if wanted is not None:
        return _below(tensors, found, wanted)
    if len(found) > 1:
        raise CheckpointError(
            f"checkpoint holds several backbones, under {sorted(found)}; choose one with prefix="
        )
    if found:
        return next(iter(found))
    return "backbone." if any(key.startswith("backbone.") for key in tensors) else ""


def _below(tensors: Mapping[str, Tensor], found: set[str], wanted: str) -> str:
    """The prefix of the one backbone at or below a wanted one."""
    prefix = f"{wanted.removeprefix('module.').removesuffix('.')}." if wanted else ""
    if not any(key.startswith(prefix) for key in tensors):
        tops = sorted({key.split(".")[0] for key in tensors})
        there = f"backbones are under {sorted(found)}" if found else f"keys begin with {tops[:5]}"
        raise CheckpointError(f"checkpoint has nothing under prefix {wanted!r}; {there}")
    below = {prefix} & found or {other for other in found if other.startswith(prefix)}
    if len(below) > 1:
        raise CheckpointError(
            f"checkpoint holds several backbones under prefix {wanted!r}: {sorted(below)}"
        )
    return below.pop() if below else prefix


def _unwrap(
    checkpoint: object, key: str | None, depth: int = 0
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the state dict, and the names of everything else with the reason."""
    held = _state_dicts(checkpoint)
    if key is not None and key not in held:
        raise CheckpointError(
            f"checkpoint has no state dict under key {key!r}; it has {held or 'none'}"
        )
    name = key if key is not None else next((name for name in CONTAINERS if name in held), None)
    tensors = _tensors(checkpoint)
    if name is None and tensors:
        others = {k: v for k, v in checkpoint.items() if k not in tensors}
        return tensors, {str(k): f"is no tensor, but {type(v).__name__}" for k, v in others.items()}
    if name is None and len(held) > 1:
        raise CheckpointError(
            f"checkpoint holds several state dicts, under {held}; choose one with key="
        )
    if name is None and not held:
        found = type(checkpoint).__name__
        found = list(checkpoint)[:5] if isinstance(checkpoint, Mapping) else found
        raise CheckpointError(f"checkpoint holds no state dict of tensors; found {found}")
    if depth == DEEPEST:
        raise CheckpointError(f"checkpoint holds dicts in dicts, more than {DEEPEST} deep")
    name = held[0] if name is None else name
    tensors, ignored = _unwrap(checkpoint[name], None, depth + 1)
    for other in checkpoint:
        if other != name:
            choice = ", another state dict: choose it with key=" if other in held else ""
            ignored[str(other)] = f"is beside the state dict {name!r}{choice}"
    return tensors, ignored


def _state_dicts(checkpoint: object) -> list[str]:
    """Names of the entries that are state dicts, or hold one under one of the known names."""
    if not isinstance(checkpoint, Mapping):
        return []
    return [k for k, v in checkpoint.items() if isinstance(k, str) and _holds_tensors(v)]


def _holds_tensors(value: object) -> bool:
    waiting, seen = [value], set()
    while waiting:
        current = waiting.pop()
        if not isinstance(current, Mapping) or id(current) in seen:
            continue
        if _tensors(current):
            return True
        seen.add(id(current))  # a file may hold a dict that holds itself
        waiting += [current.get(name) for name in CONTAINERS]
    return False


def _tensors(value: object) -> dict[str, Tensor]:
    """What a dict holds by names: nothing for an optimizer's, whose keys are numbers."""
    if not isinstance(value, Mapping):
        return {}
    return {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
