"""Swin Transformer backbones for dense prediction, as a plugin for OpenMMLab."""

from .openmmlab import prepare_openmmlab, register_plugins

prepare_openmmlab()  # says what to install, before anything else can fail

from .acceleration import accelerate  # noqa: E402
from .backbone import SwinBackbone  # noqa: E402
from .checkpoints import list_checkpoints  # noqa: E402
from .config_files import config_path, list_configs  # noqa: E402
from .creation import create  # noqa: E402
from .model_names import list_architectures  # noqa: E402
from .version import __version__  # noqa: E402

register_plugins()

__all__ = [
    "SwinBackbone",
    "__version__",
    "accelerate",
    "config_path",
    "create",
    "list_architectures",
    "list_checkpoints",
    "list_configs",
]
