"""Whose checkpoints we read: one adapter a layout, recognised by keys and never by file name."""

from .layout import CLASSIFIER, FINAL_NORM, Layout
from .native_layout import OWN
from .official_layout import OFFICIAL
from .openmmlab_layout import MMPRETRAIN_V2, OPENMMLAB
from .tensor_layouts import Windows
from .timm_layout import TIMM
from .torchvision_layout import TORCHVISION
from .transformers_layout import TRANSFORMERS

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
