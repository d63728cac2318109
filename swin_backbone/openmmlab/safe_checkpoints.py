"""Load and resume mmengine's checkpoints without unpickling arbitrary objects.

Besides tensors, mmengine stores its message hub, whose histories are numpy arrays in a
``HistoryBuffer``. torch (>= 2.6 by default) refuses classes it does not know, so that classic
mmengine cannot resume its own checkpoints; the maintained line tries, and then unpickles
whatever there is. Here histories are made anew from the arrays of the file, and mmengine's loaders
for files, addresses and object stores read with :func:`swin_backbone.checkpoints.read_checkpoint`
and nothing else. So do its loaders for catalogues, such as ``torchvision://``: what they look up
are addresses.
"""

from __future__ import annotations

import io

import numpy as np
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_loading

from ..checkpoints import read_checkpoint
from ..checkpoints.safe_pickle import Pending, StandIn, UnsafePickleError, shown
from ..checkpoints.stand_ins import register_stand_in

_NAME = f"{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}"


def _history(*args) -> Pending:
    """A history that awaits its state; it is made by its constructor, from two arrays."""
    if args:
        raise UnsafePickleError("a history of values made of arguments")
    return Pending(_history_of)


def _history_of(state) -> HistoryBuffer:
    """The histories' statistics are those of the class: a file names them, and is not asked."""
    if not isinstance(state, dict):
        raise UnsafePickleError("a history of values without them")
    values, counts = (state.get(name) for name in ("_log_history", "_count_history"))
    for array in (values, counts):
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "biuf":
            raise UnsafePickleError("a history of other than one row of numbers")
    length = state.get("max_length", 1_000_000)
    if type(length) is not int or length < 1 or not len(values) == len(counts) <= length:
        raise UnsafePickleError(f"a history of {len(values)} values, {len(counts)} counts")
    return HistoryBuffer(values, counts, length)


def _name_of_a_statistic(owner, name) -> StandIn:
    """The one use of ``getattr`` that a history has: naming its own statistics methods."""
    known = isinstance(owner, StandIn) and owner.name == _NAME
    if not known or not isinstance(name, str) or name not in HistoryBuffer._statistics_methods:
        raise UnsafePickleError(f"it looks up {shown(name)} on {shown(owner)}")
    return StandIn(f"{_NAME}.{name}")


def allow_mmengine_objects() -> None:
    """Let checkpoints hold what mmengine puts into them."""
    register_stand_in(_NAME, _history)
    register_stand_in("builtins.getattr", _name_of_a_statistic)
    for name in HistoryBuffer()._statistics_methods:  # as later protocols spell it
        register_stand_in(f"{_NAME}.{name}", None)


def load_from_path(filename: str, map_location=None):
    """mmengine's loader for files and addresses."""
    return read_checkpoint(filename, map_location)


def load_from_ceph(filename: str, map_location=None, backend: str = "petrel"):
    """mmengine's loader for object stores."""
    store = get_file_backend(filename, backend_args={"backend": backend})
    return read_checkpoint(io.BytesIO(store.get(filename)), map_location)


def install_safe_loaders() -> None:
    """Make mmengine read files and addresses safely, for ``load_from`` and ``resume`` too."""
    allow_mmengine_objects()
    CheckpointLoader.register_scheme(
        prefixes=["", "http://", "https://"], loader=load_from_path, force=True
    )
    mmengine_loading.load_from_http = load_from_path  # what the catalogues' loaders call
    CheckpointLoader.register_scheme(
        prefixes=[r"(\S+\:)?s3://", r"(\S+\:)?petrel://"], loader=load_from_ceph, force=True
    )
