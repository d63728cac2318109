"""Train a config, with mmengine's conventions.

swin-backbone train CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp]
    [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIMIZERS, DefaultScope

from ..openmmlab.resuming import find_checkpoint_to_resume
from .commands import Parser, command
from .launching import (
    add_common_arguments,
    build_runner,
    check_checkpoint,
    leave_processes,
    load_config,
    watch_weights,
)

#: Where mmengine trains in mixed precision.
DEVICES = ("cuda", "npu", "mlu", "musa")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, description="Train a model.")
    add_common_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or without a value from the work dir's last one",
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (GPU)")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    cfg = load_config(arguments, loaders=("train_dataloader", "val_dataloader"))
    if arguments.amp:
        use_mixed_precision(cfg)
    if arguments.resume is not None:
        resume(cfg, arguments.resume)
    if cfg.get("load_from"):
        check_checkpoint(cfg.load_from)
    watch_weights(cfg, strict=False)
    check_optimizer(cfg)
    check_precision(cfg)
    check_averages(cfg)
    with norms_of_one_value():
        build_runner(cfg).train()
    leave_processes()


@contextmanager
def norms_of_one_value() -> Iterator[None]:
    """Say what can be done about a batch norm of one image's only pixel, as of a head that pools
    all of a map: PyTorch says what it got."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel when training"):
            raise
        raise ValueError(
            f"a batch norm has no variance of a single value ({error}): train with "
            "train_dataloader.batch_size of 2 or more images a process, or other norms in the "
            "heads' norm_cfg, such as GN"
        ) from error


def resume(cfg: Config, checkpoint: str) -> None:
    """Let a run go on from a checkpoint, or with ``'auto'`` from its work dir's newest whole one.

    Without any it starts from the beginning, from ``load_from`` if the config has one.
    """
    if checkpoint == "auto":
        hook = cfg.get("default_hooks", {}).get("checkpoint") or {}
        found = find_checkpoint_to_resume(cfg.work_dir, hook.get("out_dir"))
        if found is None:
            print(f"--resume: {cfg.work_dir} has no checkpoint, so the run begins")
            return
        checkpoint = found
    cfg.resume, cfg.load_from = True, checkpoint


def check_optimizer(cfg: Config) -> None:
    """Raise ``ValueError`` if no optimizer has the config's type, which mmengine does not name."""
    kind = cfg.get("optim_wrapper", {}).get("optimizer", {}).get("type")
    if not isinstance(kind, str):
        return
    with (
        DefaultScope.overwrite_default_scope(cfg.get("default_scope")),
        OPTIMIZERS.switch_scope_and_registry(None) as registry,
    ):
        known = registry.get(kind) is not None
    if not known:
        raise ValueError(f"optim_wrapper.optimizer has type {kind!r}, which is not known")


def check_precision(cfg: Config) -> None:
    """Raise ``ValueError`` if a config trains in mixed precision, and mmengine, which has it for
    GPUs and the like, would find none when the run begins."""
    kinds = [getattr(amp_optimizer_wrapper, f"is_{kind}_available") for kind in DEVICES]
    kind = (cfg.get("optim_wrapper") or {}).get("type")
    if kind == "AmpOptimWrapper" and not any(is_available() for is_available in kinds):
        raise ValueError(
            "optim_wrapper of type 'AmpOptimWrapper' is mixed precision, which mmengine has for "
            "GPUs alone, and there is none here: train without --amp and --with fast or amp_..."
        )


def check_averages(cfg: Config) -> None:
    """Raise ``ValueError`` if a config averages weights that ``fully_shard`` spreads, before the
    hook fails to copy the model in each process."""
    hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or ())]
    kinds = [hook.get("type") for hook in hooks if isinstance(hook, dict)]
    if "EMAHook" in kinds and (cfg.get("strategy") or {}).get("type") == "FullyShardStrategy":
        raise ValueError(
            "EMAHook averages a copy of the model, and one that fully_shard has spread cannot be "
            "copied: train with --with ddp, or without averages"
        )


def use_mixed_precision(cfg: Config) -> None:
    """Exchange the optimizer wrapper for mmengine's mixed precision one.

    Raises:
        ValueError: if the config has a wrapper of its own, for which this has no meaning.
    """
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise ValueError(f"--amp needs optim_wrapper of type 'OptimWrapper', got {kind!r}")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
