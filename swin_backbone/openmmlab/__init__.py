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
    """Register hooks and constructors with mmengine, under every package's scope, and form an
    optimizer's groups as stock."""
    from . import (  # noqa: F401
        accelerate_hook,
        atomic_checkpoints,
        classifiers,
        cpu_distributed,
        image_loading,
        label_check,
        layer_decay,
        loaded_weights,
        parameter_groups,
        progress,
        sharding,
        step_seed,
        valid_sizes,
    )
    from .scopes import join_scopes  # once all is registered
    from .stock_groups import install_stock_groups

    join_scopes()
    install_stock_groups()
