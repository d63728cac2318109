"""Where the time goes between files and steps, with mmseg's data and with fast data.

    python benchmarks/benchmark_data.py pipelines [--images N] [--repeats N] [--out FILE.csv]
    python benchmarks/benchmark_data.py train [CONFIG] [--batch 2 16] [--ways stock fast]
        [--workers 4] [--steps N] [--out FILE.csv]
    python benchmarks/benchmark_data.py histories [--steps 160000]

Images and label maps are generated, in the sizes of ADE20K (JPEG 683x512) and Cityscapes
(2048x1024). ``pipelines`` takes the time of one core (``time.process_time``), transform by
transform: mean over images of the median over repeats, each repeat with the same draws. ``train``
trains from these files as tools/train.py does, and says what an iteration's time goes into on the
host. ``histories`` is what mmengine's own log costs an iteration of a long run.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmarking.data_sets import KINDS, Kind, write_data
from benchmarking.results import describe_device
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import FUNCTIONS, TRANSFORMS, DefaultScope

from swin_backbone.atomic_files import write_text
from swin_backbone.cli.argument_types import not_negative, positive
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.config_options import add_config_options
from swin_backbone.cli.launching import apply_options, build_runner
from swin_backbone.config_files import configs_folder
from swin_backbone.openmmlab.fast_data.deferred_logs import GrowingHistory
from swin_backbone.openmmlab.fast_data.rewrite_config import use_fast_data
from swin_backbone.openmmlab.mmengine_configs import change_config, read_config

CONFIG = "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py"
#: What a whole run is trained with. Both compute in bfloat16.
WAYS = {"stock": ("amp_bf16",), "fast": ("fast",), "model": ("fast",), "data": ("amp_bf16",)}


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    pipelines = commands.add_parser("pipelines", help="one core, transform by transform")
    pipelines.add_argument("--images", type=positive, default=16)
    pipelines.add_argument("--repeats", type=positive, default=5)
    pipelines.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    pipelines.set_defaults(run=measure_pipelines)
    train = commands.add_parser("train", help="whole runs from files")
    train.add_argument("config", nargs="?", default=CONFIG)
    train.add_argument("--batch", type=positive, nargs="+", default=[2, 16])
    train.add_argument(
        "--ways",
        nargs="+",
        choices=WAYS,
        default=["stock", "fast"],
        help="stock: mmseg's Swin, bfloat16; fast: --with fast; model: all of fast but the data; "
        "data: stock with fast data",
    )
    train.add_argument("--workers", type=positive, default=4)
    train.add_argument("--steps", type=positive, default=60, help="that are timed")
    train.add_argument("--warm-up", type=positive, default=15, help="steps before")
    train.add_argument("--images", type=positive, default=128)
    train.add_argument("--validate", type=not_negative, default=0, help="images, after training")
    add_config_options(train)
    train.set_defaults(run=measure_runs)
    histories = commands.add_parser("histories", help="mmengine's log in a long run")
    histories.add_argument("--steps", type=positive, default=160_000)
    histories.set_defaults(run=measure_histories)
    for part in (pipelines, train, histories):
        part.add_argument("--out", type=Path, help="CSV file for the results")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(0)
    rows = [_about() | row for row in arguments.run(arguments)]
    if arguments.out:
        write_csv(arguments.out, rows)


def _about() -> dict:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"date": date.today().isoformat(), "device": describe_device(device)}


def write_csv(path: Path, rows: list[dict]) -> None:
    fields = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


# --- One core ---


def measure_pipelines(arguments: argparse.Namespace) -> Iterator[dict]:
    for name in arguments.kinds:
        kind = KINDS[name]
        with _data(kind, arguments.images) as root:
            for way in ("stock", "fast"):
                yield from _measure_pipeline(name, kind, root, way, arguments)


def _measure_pipeline(name: str, kind: Kind, root: Path, way: str, arguments) -> Iterator[dict]:
    cfg = _dataset_config(kind)
    if way == "fast":
        use_fast_data(cfg)
    loader = cfg.train_dataloader
    with DefaultScope.overwrite_default_scope("mmseg"):
        steps = [TRANSFORMS.build(step) for step in loader.dataset.pipeline]
        collate = FUNCTIONS.get(loader.get("collate_fn", {"type": "pseudo_collate"})["type"])
        per_image = []
        for index, sample in enumerate(_samples(root, kind, arguments.images)):
            repeats = [_one_pass(steps, collate, sample, index) for _ in range(arguments.repeats)]
            parts = {part: statistics.median(r[part] for r in repeats) for part in repeats[0]}
            per_image.append(parts)
    means = {part: statistics.mean(p[part] for p in per_image) for part in per_image[0]}
    total = sum(value for part, value in means.items() if not part.startswith("  "))
    print(f"\n{name}, {way}: {1 / total:.0f} images a second and core")
    for part, seconds in means.items():
        print(f"  {part:28} {1e3 * seconds:6.2f} ms")
        yield {"what": "pipeline", "data": name, "way": way, "part": part, "ms": 1e3 * seconds}
    yield {"what": "pipeline", "data": name, "way": way, "part": "total", "ms": 1e3 * total}


def _one_pass(steps, collate, sample: dict, seed: int) -> dict[str, float]:
    """CPU seconds by transform; indented names are parts of the one before."""
    np.random.seed(seed)
    times: dict[str, float] = {}
    results = {**sample, "seg_fields": []}
    for step in steps:
        label = type(step).__name__
        inner: dict[str, float] = defaultdict(float)
        with _timed_parts(step, inner):
            began = time.process_time()
            results = step(results)
            times[label] = time.process_time() - began
        times |= {f"  {part}": seconds for part, seconds in inner.items()}
    began = time.process_time()
    collate([results] * 8)
    times["collate"] = (time.process_time() - began) / 8
    return times


@contextmanager
def _timed_parts(step: object, times: dict[str, float]) -> Iterator[None]:
    """Let the parts of a transform that has several say how long they take."""
    parts = [p for p in ("read_labels", "decode", "draw_crop", "resize_crop") if hasattr(step, p)]
    for part in parts:
        vars(step)[part] = _timed(getattr(step, part), part, times)
    try:
        yield
    finally:
        for part in parts:
            del vars(step)[part]


def _timed(function: Callable, name: str, times: dict[str, float]) -> Callable:
    def call(*args, **kwargs):
        began = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            times[name] += time.process_time() - began

    return call


@contextmanager
def _data(kind: Kind, images: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), kind, images)
        yield Path(folder)


def _samples(root: Path, kind: Kind, number: int) -> Iterator[dict]:
    folders = [root / kind.root / folder for folder in kind.folders]
    for index in range(number):
        image, labels = (
            str(folder / f"{index:05}{end}")
            for folder, end in zip(folders, kind.endings, strict=True)
        )
        yield {
            "img_path": image,
            "seg_map_path": labels,
            "label_map": None,
            "reduce_zero_label": kind.root.startswith("ade"),
        }


def _dataset_config(kind: Kind) -> Config:
    cfg = Config.fromfile(configs_folder() / "_base_" / "datasets" / kind.config)
    cfg.model = {"data_preprocessor": {"type": "SegDataPreProcessor", "size": cfg.crop_size}}
    return cfg


# --- Whole runs ---


def measure_runs(arguments: argparse.Namespace) -> Iterator[dict]:
    kind = KINDS["ADE20K"]
    with _data(kind, arguments.images) as root, tempfile.TemporaryDirectory() as folder:
        write_data(root, kind, arguments.validate, seed=1, split="validation")
        os.environ["SWIN_DATA_ROOT"] = str(root)
        runners = []  # until all is measured: workers take seconds to leave
        for batch in arguments.batch:
            for way in arguments.ways:
                cfg = _run_config(way, batch, Path(folder, f"{way}-{batch}"), arguments)
                runners.append(build_runner(cfg))
                row = {"what": "run", "way": way, "batch": batch, "workers": arguments.workers}
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
    path = Path(arguments.config)
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


# --- mmengine's log ---


def measure_histories(arguments: argparse.Namespace) -> Iterator[dict]:
    values = np.random.default_rng(0).normal(size=arguments.steps // 2)
    for way, make in (("mmengine", lambda h: h), ("fast data", GrowingHistory)):
        history = make(HistoryBuffer(values, np.ones(len(values), int)))
        began = time.process_time()
        for number in range(200):
            history.update(float(number))
            if number % 50 == 49:
                history.mean(10)
        microseconds = 1e6 * (time.process_time() - began) / 200
        print(f"half-way through {arguments.steps} steps, {way}: {microseconds:.1f} us a number")
        yield {"what": "history", "way": way, "part": "a number", "ms": microseconds / 1e3}


if __name__ == "__main__":
    sys.exit(main())
