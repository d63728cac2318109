"""What binds each kernel of the package in a training step, by the card's counters.

    python benchmarks/benchmark_kernels.py counters v1-tiny-w7-b32 --csv counters.csv
    python benchmarks/benchmark_kernels.py step v1-tiny-w7-b32      (for a profiler of your own)

A case is as in benchmark_backbones.py. ``counters`` needs a GPU and NVIDIA's Nsight Compute
(``ncu``), which is not part of the CUDA that comes with PyTorch. It measures each launch by itself,
with cold caches and clocks as they are, so that times are longer than in a step that runs.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from benchmarking import counters
from benchmarking.cases import Case, matmul_precision, named_cases
from benchmarking.implementations import IMPLEMENTATIONS
from benchmarking.results import describe_device
from benchmarking.steps import EAGER, make_step
from rich.console import Console
from rich.table import Table

from swin_backbone import compile_kernels
from swin_backbone.atomic_files import write_text
from swin_backbone.cli.commands import Parser, command


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    step = commands.add_parser("step", help="one training step, its kernels compiled before")
    step.set_defaults(run=run_step)
    counted = commands.add_parser("counters", help="the card's counters of such a step")
    counted.add_argument("--csv", type=Path, help="write the results")
    counted.set_defaults(run=show_counters)
    for part in (step, counted):
        part.add_argument("case", help="such as v1-tiny-w7-b32, v2-tiny-w8-b32")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise ValueError("kernels run on a GPU, and torch sees no CUDA device")
    arguments.run(arguments)


def training_case(name: str) -> Case:
    """The training step of a named case, in bfloat16."""
    found = [case for case in named_cases(name, "bf16", "cuda") if case.mode == "train"]
    if not found:
        raise ValueError(f"case: {name!r} is no training step; leave out the mode")
    return found[0]


def run_step(arguments: argparse.Namespace) -> None:
    case, ours = training_case(arguments.case), IMPLEMENTATIONS["ours"]
    model = ours.build(case.architecture, case.size).to(case.device)
    with matmul_precision(case.dtype):
        step = make_step(model, case.images(), case, EAGER)
        compile_kernels(model, step)
        step()
        torch.cuda.synchronize()


def show_counters(arguments: argparse.Namespace) -> None:
    case = training_case(arguments.case)
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, __file__, "step", arguments.case]
        rows = counters.count(program, Path(folder) / "ncu.csv")
    title = f"{case.title}, {describe_device('cuda')}"
    Console(width=None if sys.stdout.isatty() else 160).print(as_table(title, rows))
    if arguments.csv:
        write_csv(arguments.csv, arguments.case, rows)
        print(f"wrote {arguments.csv}")


def as_table(title: str, rows: list[dict]) -> Table:
    """For the terminal: shares in per cent of the card's peak."""
    table = Table(title=title, title_justify="left")
    for column in counters.COLUMNS:
        table.add_column(
            column.replace("_", " "), justify="left" if column == "kernel" else "right"
        )
    for row in rows:
        table.add_row(*(str(row[column]) for column in counters.COLUMNS))
    return table


def write_csv(path: Path, case: str, rows: list[dict]) -> None:
    about = {
        "date": date.today().isoformat(),
        "device": describe_device("cuda"),
        "torch": torch.__version__,
        "case": case,
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, [*about, *counters.COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(about | row for row in rows)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    sys.exit(main())
