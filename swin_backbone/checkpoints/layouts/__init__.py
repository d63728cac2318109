"""Whose checkpoints we read: one adapter a layout, recognised by keys and never by file name."""

from .base import CLASSIFIER, FINAL_NORM, Layout
from .official import OFFICIAL
from .openmmlab import MMPRETRAIN_V2, OPENMMLAB
from .own import OWN
from .tensors import Windows
from .timm import TIMM
from .torchvision import TORCHVISION
from .transformers import TRANSFORMERS

#: In the order in which equally good matches win.
LAYOUTS = (OWN, OPENMMLAB, MMPRETRAIN_V2, OFFICIAL, TIMM, TORCHVISION, TRANSFORMERS)

#: What a library's models take, by its name and the version of Swin.
EXPORTS = {
    ("swin_backbone", "v1"): OWN,
    ("swin_backbone", "v2"): OWN,
    ("official", "v1"): OFFICIAL,
    ("official", "v2"): OFFICIAL,
    ("mmseg", "v1"): OPENMMLAB,
    ("mmdet", "v1"): OPENMMLAB,
    ("mmpretrain", "v1"): OPENMMLAB,
    ("mmpretrain", "v2"): MMPRETRAIN_V2,
    ("timm", "v1"): TIMM,
    ("timm", "v2"): TIMM,
    ("torchvision", "v1"): TORCHVISION,
    ("torchvision", "v2"): TORCHVISION,
    ("transformers", "v1"): TRANSFORMERS,
    ("transformers", "v2"): TRANSFORMERS,
}

__all__ = ["CLASSIFIER", "EXPORTS", "FINAL_NORM", "LAYOUTS", "Layout", "Windows"]
