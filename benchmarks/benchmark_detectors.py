"""Compare whole detectors: a training step and a prediction of Mask R-CNN and DINO.

    python benchmarks/benchmark_detectors.py --csv results.csv --plot results.png
    python benchmarks/benchmark_detectors.py --tasks mask-rcnn:2:train --ways mmdet
    python benchmarks/benchmark_detectors.py --profile mask-rcnn:2:train

The detectors of this project's configs with mmdet's backbone and with ours, each stock and
accelerated: random weights and images, 12 objects an image with bitmap masks, AdamW, and bfloat16
autocast on a GPU. A task is a detector, the batch and what is done. In each round every way has a
turn; medians are reported. What fails is a row with the reason.
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import pstats
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from benchmark_models import as_line, plot, show, write_csv
from benchmarking.detectors import CONFIGS, WAYS, detector_runner
from benchmarking.profiling import as_table, take_apart
from benchmarking.runners import Runner, forget_models, take_turns
from benchmarking.segmentors import Task
from rich.console import Console

from swin_backbone.cli.commands import Parser, command
from swin_backbone.device_memory import peak_on_gpu
from swin_backbone.inference.timing import Deadline, wall_seconds

TASKS = ("mask-rcnn:2:train", "mask-rcnn:8:train", "mask-rcnn:1:predict")
WARM_UP = 5


@command
def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    warnings.filterwarnings("ignore")
    with quiet():
        return run(options, Console(width=150))


@contextmanager
def quiet() -> Iterator[None]:
    """mmengine tells how each weight begins."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def run(options: argparse.Namespace, console: Console) -> int:
    # Without cudnn.benchmark, which tries anew for each number of regions.
    if options.profile:
        show_profile(options, console)
        return 0
    deadline, lines = Deadline(options.time_limit), []
    for task in options.tasks:
        runners = measure(task, options, deadline)
        show(task, runners, console)
        lines += [as_line(task, runner, options.device) for runner in runners]
        if options.csv:
            write_csv(options.csv, lines)
    if options.plot:
        plot(lines, options.plot)
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("--tasks", nargs="+", type=task, default=[task(name) for name in TASKS])
    add("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    add("--size", nargs=2, type=int, default=(800, 1344), help="rows and columns of the images")
    add("--repeats", type=int, default=5, help="rounds")
    add("--time-limit", type=float, metavar="SECONDS")
    add("--device", choices=["cuda", "cpu"], default=device)
    add("--csv", type=Path, help="write the results, after each task")
    add("--plot", type=Path, metavar="PNG")
    add("--profile", type=task, metavar="TASK", help="instead: kernels and host of each way's step")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or min(options.size) < 1:
        parser.error("--repeats and --size must be at least 1")
    size = tuple(options.size)
    options.tasks = [DetectorTask(t.arch, t.batch, t.mode, size) for t in options.tasks]
    if options.profile:
        t = options.profile
        options.profile = DetectorTask(t.arch, t.batch, t.mode, size)
    return options


class DetectorTask(Task):
    """Of a detector; ``arch`` is its name."""

    @property
    def title(self) -> str:
        rows, columns = self.size
        return f"{self.arch} Swin-T {rows}x{columns} b{self.batch} {self.mode}"


def task(text: str) -> DetectorTask:
    """``mask-rcnn:2:train``: a training step of 2 images."""
    name, _, rest = text.partition(":")
    batch, _, mode = rest.partition(":")
    if name not in CONFIGS or not batch.isdigit() or batch == "0" or mode not in MODES:
        raise argparse.ArgumentTypeError(
            f"must be DETECTOR:BATCH:MODE, such as mask-rcnn:2:train, of the detectors "
            f"{', '.join(CONFIGS)} and the modes {', '.join(MODES)}, got {text!r}"
        )
    return DetectorTask(name, int(batch), mode)


MODES = ("train", "predict")


def measure(task: Task, options: argparse.Namespace, deadline: Deadline) -> list[Runner]:
    """Build, warm up and time each way of a task."""
    runners = [prepare(name, task, options.device) for name in options.ways]
    take_turns(runners, options.device, options.repeats, deadline)
    forget_models(runners)
    return runners


def prepare(name: str, task: Task, device: str) -> Runner:
    """A runner whose kernels are compiled, with its peak of memory."""
    try:
        runner = detector_runner(name, task, device)
        for _ in range(WARM_UP):
            wall_seconds(runner.step, device)
        if device == "cuda":
            runner.peak_bytes = peak_on_gpu(runner.model, runner.images, runner.step)
    except Exception as error:
        runner = Runner(name, torch.nn.Identity(), torch.empty(0), lambda: None)
        runner.fail(error)
    runner.release()
    return runner


def show_profile(options: argparse.Namespace, console: Console) -> None:
    """Kernels of a step, and the functions of Python in which the host spends it."""
    for name in options.ways:
        runner = prepare(name, options.profile, options.device)
        if runner.reason:
            console.print(f"{name}: {runner.reason}", markup=False)
            continue
        wall = min(wall_seconds(runner.step, options.device)[0] for _ in range(5))
        title = f"{options.profile.title}, {name}"
        console.print(as_table(take_apart(runner.step, options.device, wall, title, 3), 40))
        with cProfile.Profile() as profiler:
            for _ in range(3):
                wall_seconds(runner.step, options.device)
        print(f"{title}: functions, three steps")
        pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(40)
        pstats.Stats(profiler, stream=sys.stdout).sort_stats("cumulative").print_stats(70)


if __name__ == "__main__":
    sys.exit(main())
