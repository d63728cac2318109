"""Load and resume mmengine's checkpoints without unpickling arbitrary objects.

Besides tensors, mmengine stores its message hub, whose histories are numpy arrays in a
``HistoryBuffer``. torch (>= 2.6 by default) refuses classes it does not know, so that classic
mmengine cannot resume its own checkpoints; the maintained line tries, and then unpickles
whatever there is. Here histories are rebuilt from the arrays of the file, and mmengine's loaders
for files, addresses and object stores read with :func:`swin_backbone.checkpoints.read_checkpoint`
and nothing else. So do its loaders for catalogues, such as ``torchvision://``: what they look up
are addresses.
"""

from __future__ import annotations

import io

from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from ..checkpoints import read_checkpoint
from ..checkpoints.history_buffers import allow_histories
from .mmengine_internals import fetch_catalogues_with, history_statistics


def allow_mmengine_objects() -> None:
    """Let checkpoints hold what mmengine puts into them."""
    name = f"{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}"
    allow_histories(HistoryBuffer, name, history_statistics())


def load_from_path(filename: str, map_location=None):
    """mmengine's loader for files and addresses."""
    return read_checkpoint(filename, map_location)


def load_from_ceph(filename: str, map_location=None, backend: str = "petrel"):
    """mmengine's loader for object stores."""
    store = get_file_backend(filename, backend_args={"backend": backend})
    return read_checkpoint(io.BytesIO(store.get(filename)), map_location)


def install_safe_loaders() -> None:
    """Make mmengine read files and addresses safely, for ``load_from`` and ``resume`` too."""
    CheckpointLoader.register_scheme(
        prefixes=["", "http://", "https://"], loader=load_from_path, force=True
    )
    fetch_catalogues_with(load_from_path)
    CheckpointLoader.register_scheme(
        prefixes=[r"(\S+\:)?s3://", r"(\S+\:)?petrel://"], loader=load_from_ceph, force=True
    )
