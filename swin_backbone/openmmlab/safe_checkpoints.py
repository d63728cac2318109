"""Load and resume mmengine's checkpoints without unpickling arbitrary objects.

Besides tensors, mmengine stores its message hub, whose histories are numpy arrays in a
``HistoryBuffer``. torch (>= 2.6 by default) refuses classes it does not know, so that classic
mmengine cannot resume its own checkpoints; the maintained line tries, and then unpickles
whatever there is. Here these few names are allowed, and mmengine's loaders for files and
addresses read with ``weights_only=True`` and nothing else.
"""

from __future__ import annotations

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


# torch finds what it allows by these names, so this restricted function stands in for getattr.
_history_method.__module__ = "builtins"
_history_method.__name__ = _history_method.__qualname__ = "getattr"


def allow_mmengine_objects() -> None:
    """Allow what mmengine's checkpoints hold in ``torch.load(weights_only=True)``."""
    reconstruct, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in (bool, *np.typecodes["AllInteger"], *"efd")}
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            _history_method,
            np.ndarray,
            np.dtype,
            *dtypes,
            reconstruct,
            scalar,
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
