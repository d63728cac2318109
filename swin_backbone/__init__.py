"""Swin Transformer backbones for dense prediction: plain PyTorch, and a plugin for OpenMMLab."""

from .acceleration import accelerate
from .acceleration.compile_ahead import compile_kernels
from .checkpoints import list_checkpoints
from .config_files import config_path, list_configs
from .graphs import graph_backbone, graph_predictions
from .model.backbone import SwinBackbone
from .model.create import create
from .model.explain import explain
from .model.presets import list_architectures
from .openmmlab import connect
from .version import __version__

connect()

__all__ = [
    "SwinBackbone",
    "__version__",
    "accelerate",
    "compile_kernels",
    "config_path",
    "create",
    "explain",
    "graph_backbone",
    "graph_predictions",
    "list_architectures",
    "list_checkpoints",
    "list_configs",
]
