"""Train a config, with mmengine's conventions.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp]
    [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

from __future__ import annotations

import argparse

from launching import add_common_arguments, build_runner, leave_processes, load_config
from mmengine.config import Config


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a model.")
    add_common_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or without a value from the work dir's last one",
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (GPU)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    cfg = load_config(arguments, loaders=("train_dataloader", "val_dataloader"))
    if arguments.amp:
        use_mixed_precision(cfg)
    if arguments.resume is not None:
        cfg.resume = True
        cfg.load_from = None if arguments.resume == "auto" else arguments.resume
    build_runner(cfg).train()
    leave_processes()


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


if __name__ == "__main__":
    main()
