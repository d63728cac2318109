"""Weights in a folder, perhaps in several pieces with an index, as transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from .checkpoint_report import CheckpointError

INDEX = ".index.json"
#: Files that a folder or a repository of the hub may keep its weights in, in order of preference.
WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    f"model.safetensors{INDEX}",
    f"pytorch_model.bin{INDEX}",
)


def find_weights(folder: Path) -> Path:
    """The file, or the index, of a folder's weights.

    Raises:
        FileNotFoundError: if it has none of :data:`WEIGHT_FILES`.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"checkpoint {str(folder)!r} is a folder with none of {', '.join(WEIGHT_FILES)}"
    )


def pieces_of(index: Path) -> dict[str, str]:
    """The file's name that each tensor is in, all of them beside the index.

    Raises:
        CheckpointError: if the index is damaged, or names files elsewhere.
    """
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        whole = all(isinstance(name, str) and Path(name).name == name for name in names.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {str(index)!r} is no index of weights") from error
    if not whole:
        raise CheckpointError(f"checkpoint {str(index)!r} names files that are not beside it")
    return names


def join_pieces(index: Path, read: Callable[[Path], object]) -> dict[str, Tensor]:
    """All tensors that an index names.

    Raises:
        CheckpointError: if a piece lacks what the index says.
        FileNotFoundError: if a piece is not there.
    """
    names = pieces_of(index)
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(names.values()):
        piece = read(index.parent / name)
        wanted = [key for key, file in names.items() if file == name]
        lacking = [key for key in wanted if not isinstance(piece, Mapping) or key not in piece]
        if lacking:
            raise CheckpointError(f"checkpoint {str(index)!r}: {name} has no {lacking[0]!r}")
        tensors.update({key: piece[key] for key in wanted})
    return tensors
