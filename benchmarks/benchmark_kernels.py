"""The kernels of a training step: what binds each, and what other launch parameters would do.

    python benchmarks/benchmark_kernels.py counters v1-tiny-w7-b32 --once --csv counters.csv
    python benchmarks/benchmark_kernels.py parameters v1-tiny-w7-b32 --jobs 8 --csv parameters.csv
    python benchmarks/benchmark_kernels.py step v1-tiny-w7-b32      (for a profiler of your own)

A case is as in benchmark_backbones.py, in bfloat16. ``counters`` needs NVIDIA's Nsight Compute
(``ncu``), which is not part of the CUDA that comes with PyTorch. It measures each launch by itself,
with cold caches and clocks as they are, so that times are longer than in a step that runs; with
``--once`` one launch of each size, in a fraction of the time.
``parameters`` times each operation again and again by CUDA graphs, which finds its inputs in the
cache: what it promises is more than a step gains. All need a GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarking import counters
from benchmarking.cases import Case, matmul_precision, named_cases
from benchmarking.implementations import IMPLEMENTATIONS
from benchmarking.results import describe_device, environment_versions, now
from benchmarking.steps import EAGER, Step, make_step
from benchmarking.tables import console_for_tables
from rich.console import Console
from rich.table import Table

from swin_backbone import compile_kernels
from swin_backbone.atomic_files import write_text
from swin_backbone.cli.argument_types import positive
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.csv_text import as_csv


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    step = commands.add_parser("step", help="one training step, its kernels compiled before")
    step.set_defaults(run=run_step)
    counted = commands.add_parser("counters", help="the card's counters of such a step")
    counted.add_argument("--once", action="store_true", help="one launch of each size of a kernel")
    counted.set_defaults(run=show_counters)
    tried = commands.add_parser("parameters", help="times of many launch parameters")
    tried.add_argument("--jobs", type=positive, default=4, help="processes that compile; default 4")
    tried.add_argument("--part", type=part, metavar="N/OF", help="only compile a part of them")
    tried.set_defaults(run=show_parameters)
    for each in (counted, tried):
        each.add_argument("--csv", type=Path, help="write the results")
    for each in (step, counted, tried):
        each.add_argument("case", help="such as v1-tiny-w7-b32, v2-tiny-w8-b32")
    arguments = parser.parse_args(argv)
    try:
        case = training_case(arguments.case)
    except ValueError as error:
        parser.error(f"argument case: {error}")
    if not torch.cuda.is_available():
        raise ValueError("kernels run on a GPU, and torch sees no CUDA device")
    with matmul_precision(case.dtype):
        arguments.run(case, arguments)


def part(text: str) -> tuple[int, int]:
    """``N/OF``: N from 0 to OF - 1."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be N/OF, such as 0/4, got {text!r}")
    return int(match[1]), int(match[2])


def training_case(name: str) -> Case:
    """The training step of a named case, in bfloat16.

    Raises:
        ValueError: if there is none.
    """
    found = [case for case in named_cases(name, "bf16", "cuda") if case.mode == "train"]
    if not found:
        raise ValueError(f"must have a training step, so leave out the mode, got {name!r}")
    return found[0]


def compiled_step(case: Case) -> Step:
    model = IMPLEMENTATIONS["ours"].build(case.architecture, case.size).to(case.device)
    step = make_step(model, case.images(), case, EAGER)
    compile_kernels(model, step)
    return step


def run_step(case: Case, arguments: argparse.Namespace) -> None:
    compiled_step(case)()
    torch.cuda.synchronize()


def show_counters(case: Case, arguments: argparse.Namespace) -> None:
    console = console_for_tables()
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, __file__, "step", arguments.case]
        with console.status("the step starts") as status:
            say = lambda launches: status.update(f"{launches} launches")  # noqa: E731
            rows = counters.count(program, Path(folder) / "ncu.csv", say, arguments.once)
    show(console, case, counters.COLUMNS, rows, arguments)


def show_parameters(case: Case, arguments: argparse.Namespace) -> None:
    from benchmarking import launch_parameters  # imports Triton

    step = compiled_step(case)
    if arguments.part:
        candidates = launch_parameters.candidates(*arguments.part)
        launch_parameters.time_parameters(step, launch_parameters.only_compiled, candidates)
        return
    console = console_for_tables()
    with console.status(f"{arguments.jobs} processes compile"):
        compile_in_parts(arguments.case, arguments.jobs)
    with console.status("timing"):
        rows = launch_parameters.time_parameters(
            step, launch_parameters.seconds_by_graph, launch_parameters.candidates()
        )
    show(console, case, launch_parameters.COLUMNS, rows, arguments)


def compile_in_parts(case: str, jobs: int) -> None:
    """Fill Triton's cache with the kernels of all candidates.

    Raises:
        ValueError: a process failed.
    """
    command = [sys.executable, __file__, "parameters", case, "--part"]
    running = [subprocess.Popen([*command, f"{index}/{jobs}"]) for index in range(jobs)]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise ValueError(f"processes that compile ended with statuses {statuses}: see above")


def show(console: Console, case: Case, columns: Sequence[str], rows: list[dict], arguments) -> None:
    """Print rows, and write them if asked to."""
    table = Table(title=f"{case.title}, {describe_device('cuda')}", title_justify="left")
    for column in columns:
        side = "left" if column == "kernel" else "right"
        table.add_column(column.replace("_", " "), justify=side)
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    console.print(table)
    if arguments.csv:
        write_text(arguments.csv, text_of(arguments.case, columns, rows))
        console.print(f"wrote {arguments.csv}")


def text_of(case: str, columns: Sequence[str], rows: list[dict]) -> str:
    """With date, card, versions and case before each row."""
    versions = environment_versions()
    about = {"date": now(), "device": describe_device("cuda"), "torch": torch.__version__}
    about |= {"triton": versions.get("triton", ""), "case": case}
    return as_csv((about | row for row in rows), [*about, *columns])


if __name__ == "__main__":
    sys.exit(main())
