"""Models that leave Python: one traced program for every batch, height and width."""

from .card import ModelCard
from .detector import detections
from .formats import FORMATS, check_format, write_program
from .runtime import ExportedModel, load
from .segmentor import SegmentorLogits
from .trace import trace

__all__ = [
    "FORMATS",
    "ExportedModel",
    "ModelCard",
    "SegmentorLogits",
    "check_format",
    "detections",
    "load",
    "trace",
    "write_program",
]
