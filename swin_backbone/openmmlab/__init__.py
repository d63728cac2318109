"""What plugs into mmengine: compatibility, safe loading, hooks, optimizer constructor."""

from .compatibility import check_packages
from .mmcv_ext import install_fallback


def prepare_openmmlab() -> None:
    """Check the installed packages, then make importing and loading work; idempotent."""
    check_packages()
    install_fallback()
    from .safe_checkpoints import install_safe_loaders  # needs mmengine, just found

    install_safe_loaders()


def register_plugins() -> None:
    """Import the modules that register hooks and constructors with mmengine."""
    from . import (  # noqa: F401
        accelerate_hook,
        atomic_checkpoints,
        cpu_distributed,
        label_check,
        layer_decay,
        parameter_groups,
        progress,
        sharding,
        step_seed,
        valid_sizes,
    )
