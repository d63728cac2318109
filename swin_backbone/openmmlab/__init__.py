"""What plugs into mmengine: compatibility, safe loading, hooks, optimizer constructor."""

from importlib import util

from .switches import switched_off


def connect() -> None:
    """Where mmengine is installed, plug into it: all that importing this package changes for other
    code, each part of it unless :mod:`.switches` leaves it out. Idempotent.

    Raises:
        ImportError: if the packages of OpenMMLab that are installed cannot work together.
        ValueError: if the environment leaves out a part that there is not.
    """
    without = switched_off()
    if "openmmlab" in without or util.find_spec("mmengine") is None:
        return
    from ..acceleration import mmcv_bfloat16
    from .compatibility import check_packages
    from .served_ops import SERVED

    mmcv_bfloat16.SERVED.update(SERVED)
    check_packages()  # before anything of them is imported
    if "mmcv_ext" not in without:
        from .mmcv_ext import install_fallback

        install_fallback()
    _answer_the_core(safe_loaders="checkpoint_loading" not in without)
    register_plugins()
    if "image_loading" not in without and util.find_spec("mmcv") is not None:
        from .image_loading import install_image_loading

        install_image_loading()
    if "scopes" not in without:
        from .registry_scopes import join_scopes  # once all is registered

        join_scopes()
    if "optimizer_groups" not in without:
        from .stock_parameter_groups import install_stock_groups

        install_stock_groups()


def _answer_the_core(safe_loaders: bool) -> None:
    from ..framework import use_framework
    from .mmengine_framework import MMEngine
    from .safe_checkpoints import allow_mmengine_objects, install_safe_loaders

    allow_mmengine_objects()
    if safe_loaders:
        install_safe_loaders()
    use_framework(MMEngine(safe_loaders))


def register_plugins() -> None:
    """Register the backbone, hooks and constructors with mmengine, under names of our own."""
    from mmengine.registry import MODELS

    from ..model.backbone import SwinBackbone

    if MODELS.module_dict.get(SwinBackbone.__name__) is not SwinBackbone:
        MODELS.register_module(module=SwinBackbone)
    from . import (  # noqa: F401
        accelerate_hook,
        atomic_checkpoints,
        classifiers,
        compile_ahead_hook,
        cpu_distributed,
        cuda_graph_hook,
        data_preprocessors,
        fast_data,
        fully_sharded,
        gradient_compression,
        label_check,
        label_loading,
        layer_decay,
        loaded_weights,
        parameter_groups,
        progress,
        sharding,
        step_seed,
    )
