"""Where the time goes between files and steps, with mmseg's data and with fast data.

    python benchmarks/benchmark_data.py pipelines [--images N] [--repeats N] [--out FILE.csv]
    python benchmarks/benchmark_data.py train [CONFIG] [--batch 2 16] [--ways stock fast]
        [--workers 4] [--busy MS ...] [--steps N] [--out FILE.csv]
    python benchmarks/benchmark_data.py decoders [--repeats N]
    python benchmarks/benchmark_data.py histories [--steps 160000]

Images and label maps are generated, in the sizes of ADE20K (JPEG 683x512) and Cityscapes
(2048x1024). ``pipelines`` takes the time of one core (``time.process_time``), transform by
transform: mean over images of the median over repeats, each repeat with the same draws. ``train``
trains from these files as tools/train.py does, and says what an iteration's time goes into on the
host. With ``--busy`` the model is a stand-in that keeps the card busy for so many milliseconds a
step, and the host hardly at all: whether data and mmengine keep up with a model of that speed; 0 is
the most that the workers give. ``decoders`` compares decoders of JPEGs. ``histories`` is what
mmengine's own log costs an iteration of a long run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmarking.data_runs import WAYS, measure_runs
from benchmarking.data_sets import KINDS, Kind, temporary_data
from benchmarking.decoders import measure_decoders
from benchmarking.results import describe_device
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import FUNCTIONS, TRANSFORMS, DefaultScope

from swin_backbone.atomic_files import write_text
from swin_backbone.cli.argument_types import not_negative, number, positive
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.config_options import add_config_options
from swin_backbone.cli.csv_text import as_csv
from swin_backbone.config_files import configs_folder
from swin_backbone.openmmlab.fast_data.deferred_logs import GrowingHistory
from swin_backbone.openmmlab.fast_data.rewrite_config import use_fast_data


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
    train.add_argument("config", nargs="?", help="default: UPerNet Swin-T for the data")
    train.add_argument("--batch", type=positive, nargs="+", default=[2, 16])
    train.add_argument(
        "--ways",
        nargs="+",
        choices=WAYS,
        default=["stock", "fast"],
        help="stock: mmseg's Swin, bfloat16; fast: --with fast; graphs: --with fast cuda_graphs; "
        "model: all of fast but the data; data: stock with fast data",
    )
    train.add_argument("--workers", type=positive, default=4)
    train.add_argument("--data", choices=KINDS, default="ADE20K", help="what the config trains on")
    train.add_argument(
        "--busy", type=number(0, 10_000), nargs="+", help="a stand-in's step by batch, in ms"
    )
    train.add_argument("--steps", type=positive, default=60, help="that are timed")
    train.add_argument("--warm-up", type=positive, default=15, help="steps before")
    train.add_argument("--images", type=positive, default=128)
    train.add_argument("--validate", type=not_negative, default=0, help="images, after training")
    add_config_options(train)
    train.set_defaults(run=measure_runs)
    histories = commands.add_parser("histories", help="mmengine's log in a long run")
    histories.add_argument("--steps", type=positive, default=160_000)
    histories.set_defaults(run=measure_histories)
    decoders = commands.add_parser("decoders", help="JPEG decoders that are installed")
    decoders.add_argument("--repeats", type=positive, default=9)
    decoders.set_defaults(run=measure_decoders)
    for part in (pipelines, train, histories, decoders):
        part.add_argument("--out", type=Path, help="CSV file for the results")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(0)
    rows = []
    for row in arguments.run(arguments):
        rows.append(_about() | row)
        if arguments.out:  # each time: a run that is cut off keeps what it found
            write_csv(arguments.out, rows)


def _about() -> dict:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"date": date.today().isoformat(), "device": describe_device(device)}


def write_csv(path: Path, rows: list[dict]) -> None:
    fields = list(dict.fromkeys(name for row in rows for name in row))
    write_text(path, as_csv(rows, fields))


# --- One core ---


def measure_pipelines(arguments: argparse.Namespace) -> Iterator[dict]:
    for name in arguments.kinds:
        kind = KINDS[name]
        with temporary_data(kind, arguments.images) as root:
            for way in ("stock", "fast"):
                yield from _measure_pipeline(name, kind, root, way, arguments)


def _measure_pipeline(name: str, kind: Kind, root: Path, way: str, arguments) -> Iterator[dict]:
    cfg = _dataset_config(kind)
    if way == "fast":
        use_fast_data(cfg, on_gpu=True)
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


# --- mmengine's log ---


def measure_histories(arguments: argparse.Namespace) -> Iterator[dict]:
    values = np.random.default_rng(0).normal(size=arguments.steps // 2)
    for way, make in (("mmengine", lambda h: h), ("fast data", GrowingHistory)):
        history = make(HistoryBuffer(values, np.ones(len(values), int)))
        began = time.process_time()
        for step in range(200):
            history.update(float(step))
            if step % 50 == 49:
                history.mean(10)
        microseconds = 1e6 * (time.process_time() - began) / 200
        print(f"half-way through {arguments.steps} steps, {way}: {microseconds:.1f} us a number")
        yield {"what": "history", "way": way, "part": "a number", "ms": microseconds / 1e3}


if __name__ == "__main__":
    sys.exit(main())
