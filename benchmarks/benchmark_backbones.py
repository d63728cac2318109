"""Compare the speed and memory of this backbone and every installed peer, side by side.

    python benchmarks/benchmark_backbones.py --cases all --compile --csv out.csv    (every table)
    python benchmarks/benchmark_backbones.py --cases v2-tiny-w8 v1-large-w12-b8 --repeats 6
    python benchmarks/benchmark_backbones.py --archs tiny base --sizes 512x512 800x1344 --batch 32 8
    python benchmarks/benchmark_backbones.py --modes latency --json out.json --plot out.png
    python benchmarks/benchmark_backbones.py --profile profile.png    (what takes a step's time)
    python benchmarks/benchmark_backbones.py --show out.json --plot out.png    (measured before)

All return the same four maps from weights of the same shapes, under the same autocast. In each
round every implementation has a turn; medians are reported. What cannot run, or did not within the
time limit, is a row with the reason. A case is a version, an architecture and a window, and where
they are not the usual ones, images, their size and what is timed: v1-tiny-w7-b8-800x1344,
v1-tiny-w7-b1-latency. The peers come with ``pip install -e '.[benchmark]'``.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from benchmarking.cases import ALL, DTYPES, MODES, Case, named_cases
from benchmarking.comparison import Options, measure_all, plan
from benchmarking.csv_rows import write_csv
from benchmarking.implementations import DEFAULT_IMPLEMENTATIONS, IMPLEMENTATIONS
from benchmarking.profiling import Profile, as_table, load_profiles, profile_case, save_profiles
from benchmarking.results import (
    Benchmark,
    Peer,
    command_line,
    describe_device,
    environment_versions,
    now,
)
from benchmarking.roofline import measure_ceilings
from benchmarking.tables import as_markdown, case_table, console_for_tables, show
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from swin_backbone.atomic_files import write_text
from swin_backbone.cli.argument_types import number, picture, positive
from swin_backbone.cli.commands import Parser, command
from swin_backbone.inference.timing import Deadline
from swin_backbone.model.arguments import ARCHITECTURES


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    check(arguments, parser)
    console = console_for_tables()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", module=r"(timm|transformers|mmcv|mmdet|mmseg|torch)\b")
    if arguments.profile:
        report_profiles(arguments, console)
    else:
        report_benchmark(arguments, console)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("--cases", nargs="+", type=case_name, metavar="CASE", help=f"or all: {' '.join(ALL)}")
    add("--archs", nargs="+", choices=ARCHITECTURES, help="of V1, window 7; default tiny")
    add("--sizes", nargs="+", type=size, metavar="HxW", help="in pixels; default 512x512")
    add("--batch", nargs="+", type=positive, help="images; one number, or one for each size")
    add("--dtype", choices=DTYPES, default="bf16" if device == "cuda" else "fp32")
    add("--modes", nargs="+", choices=MODES, help="latency is forward of one image; default all")
    add(
        "--implementations",
        nargs="+",
        choices=IMPLEMENTATIONS,
        default=DEFAULT_IMPLEMENTATIONS,
        help="ours (with the backend that it picks, or a named one) and peers",
    )
    add(
        "--compile", action="store_true", help="also each with torch.compile, a minute or more each"
    )
    add("--repeats", type=positive, default=15, help="rounds; default 15")
    add(
        "--time-limit",
        type=number(0),
        metavar="SECONDS",
        help="for all measurements; what is not measured by then is named",
    )
    add("--device", choices=["cuda", "cpu"], default=device)
    add("--threads", type=positive, help="on the CPU; default: PyTorch's")
    add("--cpu-memory", action="store_true", help="on the CPU, measure memory too, 10 s each")
    add("--json", type=Path, help="write the results, after each case")
    add("--csv", type=Path, help="write them as rows, after each case")
    add("--plot", type=picture, metavar="PNG", help="write them as bars")
    add("--markdown", type=Path, help="write them as tables for a document")
    add(
        "--profile",
        type=picture,
        nargs="?",
        const=True,
        metavar="PNG",
        help="instead: where the time of a forward and of a training step of one implementation "
        "goes, for --cases or the first architecture and size",
    )
    add("--show", type=Path, metavar="JSON", help="instead of measuring, show what --json wrote")
    return parser


def case_name(text: str) -> str:
    """``'all'``, or the name of a case."""
    if text != "all":
        try:
            named_cases(text, "bf16", "cpu")
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return text


def size(text: str) -> tuple[int, int]:
    """Rows and columns from ``HxW``."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be HxW in pixels, such as 512x512, got {text!r}")
    return int(match[1]), int(match[2])


def check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Leave with a message where arguments do not go together, and fill in what was left out."""
    if arguments.cases and (arguments.archs or arguments.sizes or arguments.batch):
        parser.error("--cases say architecture, size and batch: leave out the options of these")
    arguments.archs = arguments.archs or ["tiny"]
    arguments.sizes = arguments.sizes or [(512, 512)]
    if arguments.batch is None:
        arguments.batch = [1 if arguments.device == "cpu" else 32]
    if len(arguments.batch) not in (1, len(arguments.sizes)):
        parser.error(
            f"--batch takes one number or one for each of {len(arguments.sizes)} sizes, "
            f"got {len(arguments.batch)}"
        )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    if arguments.profile:
        if arguments.implementations == DEFAULT_IMPLEMENTATIONS:
            arguments.implementations = ["ours"]
        if len(arguments.implementations) > 1:
            parser.error("--profile takes apart one of --implementations")
        if arguments.plot or arguments.markdown or arguments.csv:
            parser.error("--profile writes its own picture: leave out --plot, --markdown and --csv")


def make_cases(arguments: argparse.Namespace) -> list[Case]:
    """What was asked for: named cases, or every combination."""
    modes = arguments.modes or MODES
    if arguments.cases:
        names = [one for name in arguments.cases for one in (ALL if name == "all" else [name])]
        cases = [
            case
            for name in dict.fromkeys(names)
            for case in named_cases(name, arguments.dtype, arguments.device)
            if case.mode in modes
        ]
        if not cases:
            raise ValueError(f"--modes {' '.join(modes)}: no case of {' '.join(names)} has them")
        return cases
    batches = arguments.batch * (len(arguments.sizes) if len(arguments.batch) == 1 else 1)
    return [
        Case(
            arch,
            size,
            1 if mode == "latency" else batch,
            arguments.dtype,
            mode,
            arguments.device,
        )
        for arch in arguments.archs
        for size, batch in zip(arguments.sizes, batches, strict=True)
        for mode in modes
    ]


def report_benchmark(arguments: argparse.Namespace, console: Console) -> None:
    """Measure, or read what was measured, and show it."""
    benchmark = Benchmark.load(arguments.show) if arguments.show else measure(arguments, console)
    if arguments.show:  # else they were shown as they came
        for result in benchmark.cases:
            console.print(case_table(result, benchmark))
    show(benchmark, console)
    if arguments.csv:
        write_csv(benchmark, arguments.csv)
        console.print(f"wrote {arguments.csv}")
    if arguments.markdown:
        write_text(arguments.markdown, as_markdown(benchmark))
        console.print(f"wrote {arguments.markdown}")
    if arguments.plot:
        from benchmarking.pictures import plot_benchmark  # a picture may be made elsewhere

        plot_benchmark(benchmark, arguments.plot)
        console.print(f"wrote {arguments.plot}")


def measure(arguments: argparse.Namespace, console: Console) -> Benchmark:
    """Run every case; it is shown and written after each, so that a killed run leaves something."""
    deadline = Deadline(arguments.time_limit)
    implementations = [IMPLEMENTATIONS[name] for name in arguments.implementations]
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring the ceilings")

        def say(line: str) -> None:
            progress.update(task, description=line)
            if not line.startswith("  round "):
                progress.console.print(f"[{deadline.elapsed:6.1f} s] {line}", highlight=False)

        benchmark = Benchmark(
            command=command_line(),
            date=now(),
            device=describe_device(arguments.device),
            versions=environment_versions(),
            repeats=arguments.repeats,
            peers=[Peer.of(implementation) for implementation in implementations],
            ceilings=measure_ceilings(arguments.device, arguments.dtype),
            cases=plan(make_cases(arguments), implementations, arguments.compile),
        )
        options = Options(arguments.repeats, arguments.compile, arguments.cpu_memory, deadline, say)
        for result in measure_all(benchmark.cases, implementations, options):
            benchmark.elapsed = deadline.elapsed
            progress.console.print(case_table(result, benchmark))
            if arguments.json:
                benchmark.save(arguments.json)
            if arguments.csv:
                write_csv(benchmark, arguments.csv)
    if arguments.json:
        benchmark.save(arguments.json)
        console.print(f"wrote {arguments.json}")
    return benchmark


def report_profiles(arguments: argparse.Namespace, console: Console) -> None:
    """Take a forward and a training step apart, or read such profiles, and show them."""
    profiles = []
    for profile in load_profiles(arguments.show) if arguments.show else make_profiles(arguments):
        console.print(as_table(profile))
        profiles.append(profile)
    if arguments.json:
        save_profiles(profiles, arguments.json)
        console.print(f"wrote {arguments.json}")
    if arguments.profile is True:  # without a picture
        return
    from benchmarking.pictures import plot_profile  # a picture may be made elsewhere

    plot_profile(profiles, arguments.profile)
    console.print(f"wrote {arguments.profile}")


def make_profiles(arguments: argparse.Namespace) -> Iterator[Profile]:
    """Profiles of named cases, or of the first architecture and size, but not of latency."""
    implementation = IMPLEMENTATIONS[arguments.implementations[0]]
    device = f"{describe_device(arguments.device)}, torch {torch.__version__}"
    ceilings = measure_ceilings(arguments.device, arguments.dtype)
    cases = [case for case in make_cases(arguments) if case.mode != "latency"]
    if not arguments.cases:
        cases = [case for case in cases if (case.arch, case.size) == (cases[0].arch, cases[0].size)]
    for case in cases:
        title = f"{implementation.name}: {case.title}\n{device}, {now()}"
        yield profile_case(implementation, case, title, ceilings)


if __name__ == "__main__":
    sys.exit(main())
