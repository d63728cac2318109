"""Compare whole models, not backbones: a training step and a prediction of UPerNet.

    python benchmarks/benchmark_models.py --csv results.csv --plot results.png
    python benchmarks/benchmark_models.py --tasks T16train T1predict --ways mmseg transformers
    python benchmarks/benchmark_models.py --profile T16train
    python benchmarks/benchmark_models.py --show results.csv --plot results.png    (measured before)

mmseg's model with its own backbone, with ours, each stock and accelerated, by CUDA graphs (on a
GPU), and transformers' UperNet: random weights and images, 150 classes, AdamW, and bfloat16
autocast on a GPU. ``--ways`` has training steps under ``torch.compile`` too, which take minutes to
compile. A task is an architecture's first letter, the batch and what is done. In each round every
way has a turn; medians are reported. What fails is a row with the reason.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarking.profiling import as_table, take_apart
from benchmarking.results import describe_device, environment_versions, now
from benchmarking.runners import Runner, forget_models, take_turns
from benchmarking.segmentors import NAMES, Task, make_runner
from rich.console import Console
from rich.table import Table

from swin_backbone.atomic_files import write_text, write_whole
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.csv_text import as_csv
from swin_backbone.inference.timing import Deadline, seconds, wall_seconds
from swin_backbone.model.arguments import ARCHITECTURES

TASKS = ("T16train", "T2train", "B8train", "T1predict", "T8predict")
WARM_UP = 5
COLUMNS = ("date", "device", "torch", "task", "way", "ms", "images_per_second", "peak_gb", "reason")


@command
def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    warnings.filterwarnings("ignore")
    console = Console(width=150)
    if options.device == "cuda":
        torch.backends.cudnn.benchmark = True
    if options.show:
        plot(read_csv(options.show), options.plot)
        return 0
    if options.profile:
        show_profile(options, console)
        return 0
    deadline, lines = Deadline(options.time_limit), []
    for task in options.tasks:
        runners = measure(task, options, deadline, console)
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
    add("--ways", nargs="+", choices=NAMES, default=None)
    add("--size", type=int, default=512, help="rows and columns of the images, in pixels")
    add("--repeats", type=int, default=5, help="rounds")
    add("--time-limit", type=float, metavar="SECONDS")
    add("--device", choices=["cuda", "cpu"], default=device)
    add("--csv", type=Path, help="write the results, after each task")
    add("--plot", type=Path, metavar="PNG")
    add("--profile", type=task, metavar="TASK", help="instead: kernels of each way's step")
    add("--show", type=Path, metavar="CSV", help="instead of measuring, plot what --csv wrote")
    options = parser.parse_args(arguments)
    if options.show and not options.plot:
        parser.error("--show needs --plot")
    if options.repeats < 1 or options.size < 1:
        parser.error("--repeats and --size must be at least 1")
    if options.ways is None:
        options.ways = [name for name in NAMES if "compiled" not in name]
        if options.device == "cpu":
            options.ways = [name for name in options.ways if "graphs" not in name]
    side = (options.size, options.size)
    options.tasks = [Task(t.arch, t.batch, t.mode, side) for t in options.tasks]
    return options


def task(text: str) -> Task:
    """``T16train``: Swin-T, 16 images, a training step."""
    letters = {name[0].upper(): name for name in ARCHITECTURES}
    match = re.fullmatch(r"([A-Z])([1-9]\d*)(train|predict)", text)
    if match is None or match[1] not in letters:
        raise argparse.ArgumentTypeError(f"must be such as T16train or B1predict, got {text!r}")
    return Task(letters[match[1]], int(match[2]), match[3])


def measure(task: Task, options: argparse.Namespace, deadline: Deadline, console) -> list[Runner]:
    """Build, warm up and time each way of a task."""
    runners = []
    for name in options.ways:
        if "compiled" in name and task.mode != "train":
            continue
        console.print(f"{task.title}: {name} ({deadline.elapsed:.0f} s)", markup=False)
        runners.append(prepare(name, task, options.device))
    take_turns(runners, options.device, options.repeats, deadline)
    forget_models(runners)
    return runners


def prepare(name: str, task: Task, device: str) -> Runner:
    """A runner whose kernels are compiled, with its peak of memory."""
    torch.manual_seed(0)
    try:
        runner = make_runner(name, task, device)
    except Exception as error:
        runner = Runner(name, torch.nn.Identity(), torch.empty(0), lambda: None)
        runner.fail(error)
        return runner
    try:
        for _ in range(WARM_UP):
            wall_seconds(runner.step, device)
        if device == "cuda":
            runner.measure_peak()
    except Exception as error:
        runner.fail(error)
    runner.release()
    return runner


def as_line(task: Task, runner: Runner, device: str) -> dict:
    """One row of the CSV file."""
    median = statistics.median(runner.samples) if runner.samples else None
    return {
        "date": now(),
        "device": describe_device(device),
        "torch": environment_versions()["torch"],
        "task": task.title,
        "way": runner.name,
        "ms": f"{1e3 * median:.2f}" if median else "",
        "images_per_second": f"{task.batch / median:.1f}" if median else "",
        "peak_gb": f"{runner.peak_bytes / 1e9:.2f}" if runner.peak_bytes else "",
        "reason": runner.reason or "",
    }


def show(task: Task, runners: list[Runner], console: Console) -> None:
    table = Table("way", "ms", "img/s", "peak GB", title=task.title, title_justify="left")
    for runner in runners:
        line = as_line(task, runner, "cpu")
        table.add_row(
            runner.name, line["ms"] or line["reason"], line["images_per_second"], line["peak_gb"]
        )
    console.print(table)


def write_csv(path: Path, lines: list[dict], columns: Sequence[str] = COLUMNS) -> None:
    write_text(path, as_csv(lines, columns))


def read_csv(path: Path) -> list[dict]:
    """What :func:`write_csv` wrote.

    Raises:
        ValueError: if the file holds something else.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    if not lines or set(COLUMNS) - set(lines[0]):
        raise ValueError(f"{path} is no result of this benchmark")
    return lines


def plot(lines: list[dict], path: Path) -> None:
    """Bars of milliseconds, a panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(line["task"] for line in lines))
    figure, axes = plt.subplots(len(tasks), 1, figsize=(8, 1.9 * len(tasks)), squeeze=False)
    for panel, title in zip(axes[:, 0], tasks, strict=True):
        rows = [line for line in lines if line["task"] == title and line["ms"]][::-1]
        names, values = [row["way"] for row in rows], [float(row["ms"]) for row in rows]
        colours = ["tab:blue" if "accelerated" in name else "tab:gray" for name in names]
        panel.bar_label(panel.barh(names, values, color=colours), fmt="%.3g ms", padding=3)
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xlim(0, 1.15 * max(values, default=1))
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(lines[0]["device"] + ", torch " + lines[0]["torch"], fontsize=10)
    figure.tight_layout()
    write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=110))


def show_profile(options: argparse.Namespace, console: Console) -> None:
    side = (options.size, options.size)
    task = Task(options.profile.arch, options.profile.batch, options.profile.mode, side)
    for name in options.ways:
        runner = prepare(name, task, options.device)
        wall = statistics.median(seconds(runner.step, options.device) for _ in range(5))
        title = f"{task.title}, {name}"
        console.print(as_table(take_apart(runner.step, options.device, wall, title, 3), 45))


if __name__ == "__main__":
    sys.exit(main())
