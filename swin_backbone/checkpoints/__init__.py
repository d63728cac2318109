"""Checkpoints: reading files safely, recognising layouts, fitting tensors, saying what happened."""

from .fit import Target, fit_state_dict
from .read import find_backbone, read_checkpoint
from .report import CheckpointError, CheckpointReport

__all__ = [
    "CheckpointError",
    "CheckpointReport",
    "Target",
    "find_backbone",
    "fit_state_dict",
    "read_checkpoint",
]
