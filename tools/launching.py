"""What training and testing share: arguments, config, runner."""

from __future__ import annotations

import argparse
import gc
import os
from pathlib import Path

import torch
import torch.distributed
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

import swin_backbone  # noqa: F401  (first of all: it lets mmseg import without compiled ops)
from swin_backbone.openmmlab.cpu_distributed import prepare_cpu_processes
from swin_backbone.openmmlab.data_folders import check_data_folders

OPTIONS = Path(__file__).resolve().parents[1] / "configs" / "_base_" / "options"


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that mmengine's tools have everywhere."""
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        help="changes to the config, as key.subkey=value",
    )
    parser.add_argument(
        "--with",
        dest="options",
        nargs="+",
        default=[],
        choices=sorted(path.stem for path in OPTIONS.glob("*.py")),
        help="changes to the config that stand in configs/_base_/options",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def load_config(arguments: argparse.Namespace, loaders: tuple[str, ...]) -> Config:
    """The config with the command line's changes, its data folders checked.

    Args:
        arguments: of a parser with :func:`add_common_arguments`.
        loaders: the data loaders that will be used.

    Raises:
        FileNotFoundError: if the config, or a folder that its loaders name, is not there.
    """
    if not Path(arguments.config).is_file():
        raise FileNotFoundError(f"config {arguments.config!r} is not a file")
    os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    cfg = Config.fromfile(arguments.config)
    cfg.launcher = arguments.launcher
    for name in arguments.options:
        cfg.merge_from_dict(Config.fromfile(OPTIONS / f"{name}.py").to_dict())
    cfg.merge_from_dict(arguments.cfg_options)
    name = Path(arguments.config).stem
    cfg.work_dir = arguments.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / name)
    check_data_folders(cfg, loaders)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """A runner, ready for any launcher; without GPUs, processes talk through gloo."""
    if cfg.launcher == "pytorch" and not torch.cuda.is_available():
        prepare_cpu_processes(cfg)
    cfg.setdefault("env_cfg", {"dist_cfg": {"backend": "nccl"}})  # FlexibleRunner has no default
    return RUNNERS.get(cfg.get("runner_type", "Runner")).from_cfg(cfg)


def leave_processes() -> None:
    """Wait for the other processes and part from them, where there are any.

    A process that ends while its group still stands may abort, and torchrun then stops the
    others, among them the one that is still writing the last checkpoint. What refers to the group,
    as a sharded model does, would keep its threads alive; so it goes first.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        gc.collect()
        torch.distributed.destroy_process_group()
