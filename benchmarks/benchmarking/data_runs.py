"""Whole runs from files, and what an iteration's time goes into on the host."""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from swin_backbone.cli.launching import apply_options, build_runner
from swin_backbone.config_files import configs_folder
from swin_backbone.openmmlab.fast_data.rewrite_config import use_fast_data
from swin_backbone.openmmlab.mmengine_configs import change_config, read_config

from .data_sets import KINDS, temporary_data, write_data

CONFIGS = {
    "ADE20K": "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
    "Cityscapes": "swin/swin-tiny-patch4-window7-in1k-pre_upernet_4xb2-80k_cityscapes-512x1024.py",
}
#: What a whole run is trained with. Both compute in bfloat16.
WAYS = {
    "stock": ("amp_bf16",),
    "fast": ("fast",),
    "graphs": ("fast", "cuda_graphs"),
    "model": ("fast",),
    "data": ("amp_bf16",),
}


def measure_runs(arguments: argparse.Namespace) -> Iterator[dict]:
    kind = KINDS[arguments.data]
    busy = arguments.busy or [None] * len(arguments.batch)
    if len(busy) != len(arguments.batch):
        raise ValueError(f"--busy takes a number for each of --batch, got {busy}")
    with temporary_data(kind, arguments.images) as root, tempfile.TemporaryDirectory() as folder:
        write_data(root, kind, arguments.validate, seed=1, split="validation")
        os.environ["SWIN_DATA_ROOT"] = str(root)
        runners = []  # until all is measured: workers take seconds to leave
        for batch, milliseconds in zip(arguments.batch, busy, strict=True):
            for way in arguments.ways:
                cfg = _run_config(way, batch, Path(folder, f"{way}-{len(runners)}"), arguments)
                if milliseconds is not None:
                    cfg = stand_in(cfg, milliseconds)
                runners.append(build_runner(cfg))
                row = {"what": "run", "data": arguments.data, "way": way, "batch": batch}
                row |= {"workers": arguments.workers, "busy ms": milliseconds}
                yield row | _measure_run(runners[-1], row, arguments.warm_up)


def _measure_run(runner, about: dict, warm_up: int) -> dict[str, float]:
    began = time.perf_counter()
    watch = StopwatchHook(warm_up)
    runner.register_hook(watch)
    runner.train()
    found = watch.summary() | {"whole s": time.perf_counter() - began}
    if runner.val_loop is not None:
        runner.val_loop.run()  # its kernels are compiled, or found, and its workers begin
        began = time.perf_counter()
        runner.val_loop.run()
        seconds = time.perf_counter() - began
        found["validation images/s"] = len(runner.val_dataloader.dataset) / seconds
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
    print(", ".join(f"{name} {value}" for name, value in about.items()), numbers, flush=True)
    return found


def _run_config(way: str, batch: int, work_dir: Path, arguments) -> Config:
    path = Path(arguments.config or CONFIGS[arguments.data])
    cfg = read_config(path if path.is_file() else configs_folder() / path)
    cfg.model.backbone.pop("init_cfg", None)
    for head in ("decode_head", "auxiliary_head"):
        if "norm_cfg" in cfg.model.get(head, {}):
            cfg.model[head].norm_cfg.type = "BN"
    if way in ("stock", "data"):
        cfg.model.backbone = {**cfg.model.backbone, "type": "mmseg.SwinTransformer"}
        cfg.model.backbone.pop("arch", None)  # the stock default is Swin-T
    steps = arguments.warm_up + arguments.steps
    cfg.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": 10**9}
    if not arguments.validate:
        for name in ("val_dataloader", "val_cfg", "val_evaluator"):
            cfg.pop(name)
    cfg.default_hooks.checkpoint = {"type": "CheckpointHook", "interval": -1, "save_last": False}
    cfg.train_dataloader.update(batch_size=batch, num_workers=arguments.workers)
    if arguments.config is None:  # its own images may be PNGs
        cfg.train_dataloader.dataset.img_suffix = KINDS[arguments.data].endings[0]
    cfg.work_dir, cfg.log_level = str(work_dir), "WARNING"
    cfg.visualizer.name = work_dir.name
    cfg.experiment_name = work_dir.name
    untouched = copy.deepcopy((cfg.train_dataloader, cfg.model.data_preprocessor))
    apply_options(cfg, WAYS[way])
    if way == "model":
        cfg.train_dataloader, cfg.model.data_preprocessor = untouched
        cfg.default_hooks.pop("runtime_info", None)
    elif way == "data":
        print(use_fast_data(cfg))
    if not torch.cuda.is_available():  # to try this script: mixed precision is for GPUs
        cfg.optim_wrapper = {
            "type": "OptimWrapper",
            "optimizer": cfg.optim_wrapper.optimizer,
            "paramwise_cfg": cfg.optim_wrapper.paramwise_cfg,
        }
    change_config(cfg, arguments.cfg_options)
    return Config(cfg.to_dict(), format_python_code=False)


def stand_in(cfg: Config, milliseconds: float) -> Config:
    """The same run of a model that only keeps the card busy."""
    cfg.model = {
        "type": "BusySegmentor",
        "data_preprocessor": cfg.model.data_preprocessor,
        "num_classes": cfg.model.decode_head.num_classes,
        "milliseconds": milliseconds,
    }
    cfg.default_hooks.pop("accelerate", None)
    return cfg


@MODELS.register_module()
class BusySegmentor(BaseModel):
    """A segmentor that takes the card some time, and the host a few launches.

    Args:
        data_preprocessor: as of any.
        num_classes: of its decode head, for hooks that ask.
        milliseconds: that a step keeps the card busy.
    """

    def __init__(self, data_preprocessor: dict, num_classes: int, milliseconds: float):
        super().__init__(data_preprocessor)
        self.decode_head = nn.Identity()
        vars(self.decode_head).update(
            num_classes=num_classes, out_channels=num_classes, ignore_index=255
        )
        self.weight = nn.Parameter(torch.ones(()))
        self.milliseconds = milliseconds
        self.cycles = _cycles_of(milliseconds) if torch.cuda.is_available() else 0

    def forward(self, inputs, data_samples=None, mode="tensor") -> dict:
        """Losses and scores as an ``EncoderDecoder`` with two heads has them."""
        if inputs.is_cuda:
            torch.cuda._sleep(self.cycles)
        else:
            time.sleep(self.milliseconds / 1e3)
        loss = inputs[:, :, ::64, ::64].mean() * self.weight
        score = loss.detach()
        return {
            "decode.loss_ce": loss,
            "decode.acc_seg": score,
            "aux.loss_ce": loss,
            "aux.acc_seg": score,
        }


def _cycles_of(milliseconds: float) -> int:
    """Cycles of the card's clock."""
    begins, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(10**7)
    begins.record()
    torch.cuda._sleep(10**7)
    ends.record()
    ends.synchronize()
    return int(milliseconds * 10**7 / begins.elapsed_time(ends))


class StopwatchHook(Hook):
    """Take the time of each iteration's parts, on the host.

    Args:
        warm_up: iterations that do not count.
    """

    priority = "LOWEST"

    def __init__(self, warm_up: int):
        self.warm_up = warm_up
        self.waits: list[float] = []
        self.steps: list[float] = []
        self.ends: list[float] = []

    def before_train(self, runner) -> None:
        """Put clocks around waiting for data and around the step."""
        loop = runner.train_loop
        loop.dataloader_iterator = _TimedIterator(loop.dataloader_iterator, self.waits)
        model, step = runner.model, runner.model.train_step

        def train_step(*args, **kwargs):
            began = time.perf_counter()
            outputs = step(*args, **kwargs)
            self.steps.append(time.perf_counter() - began)
            return outputs

        model.train_step = train_step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """The end of an iteration; before the first that counts, and after the last, of its
        kernels too."""
        if batch_idx + 1 in (self.warm_up, runner.max_iters):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            mark = (time.perf_counter(), time.thread_time(), _cpu_of_children())
            if batch_idx + 1 == self.warm_up:
                self.first = mark
            self.last = mark
        self.ends.append(time.perf_counter())

    def summary(self) -> dict[str, float]:
        """Of the iterations that count: means and medians, in ms, and cores."""
        count = len(self.ends) - self.warm_up
        wall, thread, children = (b - a for a, b in zip(self.first, self.last, strict=True))
        waits, steps = (values[self.warm_up :] for values in (self.waits, self.steps))
        each = np.diff(self.ends[self.warm_up - 1 :])
        return {
            "it/s": count / wall,
            "iteration ms": 1e3 * wall / count,
            "median ms": 1e3 * float(np.median(each)),
            "waiting for data ms": 1e3 * statistics.mean(waits),
            "waiting %": 100 * sum(waits) / wall,
            "train_step ms": 1e3 * statistics.mean(steps),
            "hooks and loop ms": 1e3 * (wall - sum(waits) - sum(steps)) / count,
            "main thread's CPU ms": 1e3 * thread / count,
            "workers' cores": children / wall,
        }


class _TimedIterator:
    def __init__(self, iterator: Iterator, waits: list[float]):
        self._iterator, self._waits = iterator, waits

    def __next__(self):
        began = time.perf_counter()
        batch = next(self._iterator)
        self._waits.append(time.perf_counter() - began)
        return batch

    def __getattr__(self, name: str):
        return getattr(self._iterator, name)


def _cpu_of_children() -> float:
    """CPU seconds of this process's children, from /proc; 0 where there is none."""
    total, own = 0, os.getpid()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == own:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")
