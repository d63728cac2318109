"""Load and resume mmengine's checkpoints without unpickling arbitrary objects.

Besides tensors, mmengine stores its message hub, whose histories are numpy arrays in a
``HistoryBuffer``. torch (>= 2.6 by default) refuses classes it does not know, so that classic
mmengine cannot resume its own checkpoints; the maintained line tries, and then unpickles
whatever there is. Here these few names are allowed, and mmengine's loaders for files and
addresses read with ``weights_only=True`` and nothing else. Its other loaders, for catalogues
such as ``torchvision://`` and for object stores, are left as they are.
"""

from __future__ import annotations

import codecs

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from ..checkpoints import read_checkpoint


def _history_method(owner: type, name: str):
    """The one use of ``getattr`` that a history needs: naming its own statistics methods."""
    if owner is not HistoryBuffer or name.startswith("_"):
        raise AttributeError(f"a checkpoint may not look up {name!r} on {owner!r}")
    return getattr(owner, name)


def _named(function, module: str, name: str):
    """A stand-in for ``module.name``: torch finds what it allows by the name alone."""

    def stand_in(*args):
        return function(*args)

    stand_in.__module__ = module
    stand_in.__name__ = stand_in.__qualname__ = name
    return stand_in


def _numpy_functions() -> list:
    """What rebuilds arrays and numbers, under its names in numpy 1 and in numpy 2."""
    reconstruct, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    return [
        _named(function, module, function.__name__)
        for function in (reconstruct, scalar)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    ]


def allow_mmengine_objects() -> None:
    """Allow what mmengine's checkpoints hold in ``torch.load(weights_only=True)``."""
    dtypes = {type(np.dtype(kind)) for kind in (bool, *np.typecodes["AllInteger"], *"efd")}
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            _named(_history_method, "builtins", "getattr"),
            *_numpy_functions(),
            np.ndarray,
            np.dtype,
            *dtypes,
            codecs.encode,  # how numpy pickles bytes; torch allows it by itself from 2.5 on
        ]
    )


def load_from_path(filename: str, map_location=None):
    """mmengine's loader for files and addresses."""
    return read_checkpoint(filename, map_location)


def install_safe_loaders() -> None:
    """Make mmengine read files and addresses safely, for ``load_from`` and ``resume`` too."""
    allow_mmengine_objects()
    CheckpointLoader.register_scheme(
        prefixes=["", "http://", "https://"], loader=load_from_path, force=True
    )
