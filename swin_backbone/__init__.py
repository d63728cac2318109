"""Swin Transformer backbones for dense prediction: plain PyTorch, and a plugin for OpenMMLab."""

from .acceleration import accelerate
from .backbone import SwinBackbone
from .checkpoints import list_checkpoints
from .creation import create
from .model_names import list_architectures
from .openmmlab import connect
from .version import __version__

connect()

__all__ = [
    "SwinBackbone",
    "__version__",
    "accelerate",
    "create",
    "list_architectures",
    "list_checkpoints",
]
