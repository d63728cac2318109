"""Checkpoints: reading files safely, recognising layouts, fitting tensors, saying what happened."""

from .catalogue import PublicCheckpoint, list_checkpoints
from .fit import Target, fit_state_dict
from .read import find_backbone, read_checkpoint
from .report import CheckpointError, CheckpointReport
from .resize import TABLE_INTERPOLATIONS
from .translate import Translation, to_ours, to_theirs

__all__ = [
    "TABLE_INTERPOLATIONS",
    "CheckpointError",
    "CheckpointReport",
    "PublicCheckpoint",
    "Target",
    "Translation",
    "find_backbone",
    "fit_state_dict",
    "list_checkpoints",
    "read_checkpoint",
    "to_ours",
    "to_theirs",
]
