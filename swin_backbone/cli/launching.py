"""What training and testing share: arguments, config, runner."""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS, STRATEGIES
from mmengine.runner import FlexibleRunner, Runner

from ..config_files import configs_folder
from ..openmmlab.cpu_distributed import prepare_cpu_processes
from ..openmmlab.data_folders import check_data_folders
from ..openmmlab.fast_data.rewrite_config import use_fast_data
from ..openmmlab.mmengine_configs import as_config_error, change_config, read_config
from ..openmmlab.mmengine_internals import strategy
from ..openmmlab.whole_models import kind_of
from .argument_types import config as config_type
from .config_options import add_config_options

#: What is no path: a hub's name.
ADDRESS = re.compile(r"(hf-hub|timm|s3):")
#: How many runners this process has built.
_runs = itertools.count()


def options_folder() -> Path:
    """Where changes to configs lie that ``--with`` names."""
    return configs_folder() / "_base_" / "options"


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--with``: changes that have names."""
    parser.add_argument(
        "--with",
        dest="options",
        nargs="+",
        default=[],
        choices=sorted(path.stem for path in options_folder().glob("*.py")),
        help="changes to the config that stand in configs/_base_/options",
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that mmengine's tools have everywhere."""
    parser.add_argument("config", type=config_type, help="a config, or its name")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints")
    add_config_options(parser)
    add_options(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def apply_options(cfg: Config, names: Sequence[str]) -> None:
    """Make the changes of ``--with`` to a config."""
    for name in names:
        changes = Config.fromfile(options_folder() / f"{name}.py").to_dict()
        _make_room(cfg, changes)
        cfg.merge_from_dict(changes)
    if "fast" in names:
        # A fused optimizer gains nothing where each parameter is a group. Not in the file of the
        # option, as it would take the place of a config's own constructor.
        cfg.optim_wrapper.setdefault("constructor", "MergedGroupsOptimWrapperConstructor")
    if {"fast", "fast_data"} & set(names):
        # What replaces a transform depends on those around it, which no file of an option knows.
        print_log(f"fast data:\n{use_fast_data(cfg)}", "current")


def _make_room(settings: dict, changes: Mapping) -> None:
    """Empty settings that are no dictionaries where the changes have one, as mmengine refuses to
    merge the two: ``loss_scale="dynamic"``, a hook that is ``None``."""
    for name, change in changes.items():
        if isinstance(change, Mapping) and name in settings:
            if isinstance(settings[name], dict):
                _make_room(settings[name], change)
            else:
                settings[name] = {}


def load_config(arguments: argparse.Namespace, loaders: tuple[str, ...]) -> Config:
    """The config with the command line's changes, its data folders checked.

    Args:
        arguments: of a parser with :func:`add_common_arguments`.
        loaders: the data loaders that will be used.

    Raises:
        FileNotFoundError: if the config, or a folder that its loaders name, is not there.
        ValueError: if the config cannot be read, has no model, or lacks a loader.
    """
    os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    cfg = read_config(arguments.config)
    cfg.launcher = arguments.launcher
    apply_options(cfg, arguments.options)
    change_config(cfg, arguments.cfg_options)
    name = Path(arguments.config).stem
    cfg.work_dir = arguments.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / name)
    kind_of(cfg, f"config {arguments.config!r}")
    for loader in loaders[:1]:
        if not cfg.get(loader):
            raise ValueError(f"config {arguments.config!r} has no {loader}")
    with as_config_error(f"the data of config {arguments.config!r}"):
        check_data_folders(cfg, loaders)
    return cfg


def check_checkpoint(source: str) -> None:
    """Raise ``FileNotFoundError`` if a checkpoint is a path, and no file or folder is there."""
    if "://" not in source and not ADDRESS.match(source) and not Path(source).exists():
        raise FileNotFoundError(f"checkpoint {source!r} is not a file")


def watch_weights(cfg: Config, strict: bool) -> None:
    """Let a run say what it loads; if ``strict``, tensors that it did not load are an error."""
    hook = {"type": "LoadedWeightsHook", "strict": strict}
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), hook]


def build_runner(cfg: Config) -> Runner:
    """A runner, ready for any launcher; without GPUs, processes talk through gloo."""
    if cfg.get("launcher") == "pytorch" and not torch.cuda.is_available():
        prepare_cpu_processes(cfg)
    cfg.setdefault("env_cfg", {"dist_cfg": {"backend": "nccl"}})  # FlexibleRunner has no default
    kind = RUNNERS.get(cfg.get("runner_type", "Runner"))
    if kind is None:
        raise ValueError(f"config {cfg.filename!r}: runner_type {cfg.runner_type!r} is not known")
    if issubclass(kind, FlexibleRunner):
        check_processes(cfg)
    _name_visualizer(cfg, next(_runs))
    with as_config_error(f"config {cfg.filename!r} cannot be built"):
        return kind.from_cfg(cfg)


def check_processes(cfg: Config) -> None:
    """Raise ``ValueError`` if a strategy is for several processes, and nothing has started any."""
    name = (cfg.get("strategy") or {}).get("type")
    spreads = STRATEGIES.get(name) if isinstance(name, str) else name
    if not (isinstance(spreads, type) and issubclass(spreads, strategy("DDPStrategy"))):
        return
    if cfg.get("launcher", "none") == "none" and not torch.distributed.is_initialized():
        raise ValueError(
            f"strategy {spreads.__name__} spreads a model over processes, and none have been "
            f"started: use a launcher, as tools/dist_train.sh CONFIG 1 does for one GPU"
        )


def _name_visualizer(cfg: Config, runs_before: int) -> None:
    """mmengine keeps visualizers by name, each with the folder of the run that made it: a later run
    of a process gets one of its own."""
    settings = cfg.get("visualizer")
    if runs_before and settings and "name" in settings:
        settings["name"] = f"{settings['name']}-{runs_before}"


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
