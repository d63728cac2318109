"""Checkpoints: reading files safely, recognising layouts, fitting tensors, saying what happened."""

from .catalogue import PublicCheckpoint, list_checkpoints
from .checkpoint_report import CheckpointError, CheckpointReport
from .convert import convert_checkpoint
from .fit import Target, fit_state_dict
from .history_buffers import allow_histories
from .layouts import EXPORTS, Windows
from .read import find_backbone, read_checkpoint
from .resize_parameters import TABLE_INTERPOLATIONS
from .translate import Translation, to_ours, to_theirs

allow_histories()

#: Libraries whose layouts can be written.
LIBRARIES = tuple(dict.fromkeys(library for library, _ in EXPORTS))

__all__ = [
    "LIBRARIES",
    "TABLE_INTERPOLATIONS",
    "CheckpointError",
    "CheckpointReport",
    "PublicCheckpoint",
    "Target",
    "Translation",
    "Windows",
    "convert_checkpoint",
    "find_backbone",
    "fit_state_dict",
    "list_checkpoints",
    "read_checkpoint",
    "to_ours",
    "to_theirs",
]
