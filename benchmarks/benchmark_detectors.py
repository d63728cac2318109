"""Compare whole detectors: training steps and predictions of Mask R-CNN, DINO and Mask2Former.

    python benchmarks/benchmark_detectors.py --csv results.csv --plot results.png
    python benchmarks/benchmark_detectors.py --tasks mask-rcnn:2:train --ways mmdet
    python benchmarks/benchmark_detectors.py --profile mask-rcnn:2:train

The detectors of this project's configs with mmdet's backbone and with ours, each stock and
accelerated: random weights and images, 12 objects an image with bitmap masks, or 12 classes, AdamW,
and bfloat16 autocast on a GPU. Stock mmdet runs deformable attention by mmcv's PyTorch function,
and once more by compiled ops where mmcv has them. These take no bfloat16, so that stock models run
in float16 there; the columns ``ops`` and ``dtype`` say what ran. Memory is with what graphs hold. A
task is a detector, the batch and what is done; on request also of cascade (Mask R-CNN), retinanet,
atss-dyhead and rtmdet. Each way has a turn as soon as it is ready, and then one in each round;
medians are reported. What fails, or comes too late, is a row with the reason.
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import pstats
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from benchmark_models import COLUMNS, as_line, plot, show, write_csv
from benchmarking.detectors import BACKBONES, CONFIGS, SIZES, WAYS, detector_runner
from benchmarking.profiling import as_table, take_apart
from benchmarking.results import command_line
from benchmarking.runners import Runner, forget_models
from benchmarking.segmentors import Task
from rich.console import Console

from swin_backbone.cli.commands import Parser, command
from swin_backbone.inference.timing import Deadline, interleave, turn_of, wall_seconds

TASKS = tuple(
    f"{name}:{rest}"
    for name, modes in {
        "mask-rcnn": ("2:train", "8:train", "1:predict"),
        "dino": ("2:train", "1:predict"),
        "mask2former": ("2:train", "8:train", "1:predict"),
    }.items()
    for rest in modes
)
WARM_UP = 4


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
        console.print(f"{task.title} ({deadline.elapsed:.0f} s)", markup=False)
        keep = partial(with_rows_of, options, task, lines)
        runners = measure(task, options, deadline, keep)
        show(task, runners, console)
        lines = keep(runners)
    if options.plot:
        plot(lines, options.plot)
    return 0


def with_rows_of(
    options: argparse.Namespace, task: Task, lines: list[dict], runners: list[Runner]
) -> list[dict]:
    """Rows of earlier tasks and of what there is of this one; they are also written."""
    lines = lines + [
        with_ops(as_line(task, runner, options.device), options.device) for runner in runners
    ]
    if options.csv:
        write_csv(options.csv, lines, (*COLUMNS, "ops", "dtype", "command"))
    return lines


def with_ops(line: dict, device: str) -> dict:
    """A row that tells whose ops ran, in which dtype, and by which command."""
    way = WAYS[line["way"]]
    ran = {"ops": "", "dtype": ""}
    if not line["reason"]:
        ran = {"ops": way.called_ops(device), "dtype": way.dtype(device)}
    return {**line, **ran, "command": command_line()}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("--tasks", nargs="+", type=task, default=[task(name) for name in TASKS])
    add("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    add("--size", nargs=2, type=int, help="rows and columns of images; else as usual")
    add("--repeats", type=int, default=5, help="rounds")
    add("--time-limit", type=float, metavar="SECONDS", help="later ways are left out")
    add("--one-by-one", action="store_true", help="compile kernels as they start")
    add("--device", choices=["cuda", "cpu"], default=device)
    add("--csv", type=Path, help="write the results, after each way and round")
    add("--plot", type=Path, metavar="PNG")
    add("--profile", type=task, metavar="TASK", help="instead: kernels and host of each way's step")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or min(options.size or (1,)) < 1:
        parser.error("--repeats and --size must be at least 1")
    options.tasks = [sized(task, options.size) for task in options.tasks]
    options.profile = options.profile and sized(options.profile, options.size)
    return options


def sized(task: Task, size: list[int] | None) -> DetectorTask:
    """The task with images of a size, or of its detector's own."""
    return DetectorTask(task.arch, task.batch, task.mode, tuple(size or SIZES[task.arch]))


class DetectorTask(Task):
    """Of a detector; ``arch`` is its name."""

    @property
    def title(self) -> str:
        rows, columns = self.size
        backbone = BACKBONES.get(self.arch, "Swin-T")
        return f"{self.arch} {backbone} {rows}x{columns} b{self.batch} {self.mode}"


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


def measure(
    task: Task,
    options: argparse.Namespace,
    deadline: Deadline,
    keep: Callable[[list[Runner]], object],
) -> list[Runner]:
    """Build, warm up and time each way of a task; ``keep`` gets what there is, again and again."""
    runners: list[Runner] = []
    for name in options.ways:
        runners.append(prepare(name, task, options, deadline))
        print(f"{name}: {first_words(runners[-1])} ({deadline.elapsed:.0f} s)", flush=True)
        keep(runners)
    ready = [runner for runner in runners if runner.reason is None]
    for _ in interleave(ready, options.device, options.repeats - 1, deadline, least=0):
        keep(runners)
    forget_models(runners)
    return runners


def first_words(runner: Runner) -> str:
    """What is known of a way after its first turn."""
    return runner.reason or f"{1e3 * runner.samples[0]:.1f} ms"


def prepare(name: str, task: Task, options: argparse.Namespace, deadline: Deadline) -> Runner:
    """A runner whose kernels are compiled, with its peak of memory and its first turn."""
    device = options.device
    try:
        if deadline.passed:
            raise TimeoutError(f"{deadline.limit:.0f} s had passed")
        runner = detector_runner(name, task, device, not options.one_by_one)
        for _ in range(WARM_UP if device == "cuda" else 1):
            wall_seconds(runner.step, device)
        if device == "cuda":
            runner.measure_peak()
        runner.samples += turn_of(runner, device)
    except Exception as error:
        runner = Runner(name, torch.nn.Identity(), torch.empty(0), lambda: None)
        runner.fail(error)
    runner.release()
    return runner


def show_profile(options: argparse.Namespace, console: Console) -> None:
    """Kernels of a step, and the functions of Python in which the host spends it."""
    deadline = Deadline(options.time_limit)
    for name in options.ways:
        runner = prepare(name, options.profile, options, deadline)
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
