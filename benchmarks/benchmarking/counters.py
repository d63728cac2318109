"""What binds each kernel of the package in a step, by the card's own counters.

NVIDIA's Nsight Compute (``ncu``) starts each kernel again and again, with cold caches, until it has
read all counters, and writes one line a launch.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

TIME, BYTES = "gpu__time_duration.sum", "dram__bytes.sum"
#: Per cent of what the card can do while a kernel runs, by the name of a column.
SHARES = {
    "memory": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1_and_shared": "l1tex__throughput.avg.pct_of_peak_sustained_active",
    "tensor_cores": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "exponentials": "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",
    "issue_slots": "sm__issue_active.avg.pct_of_peak_sustained_active",
    "warps": "sm__warps_active.avg.pct_of_peak_sustained_active",
}
#: What warps wait for; the most of these is named.
STALLS = {
    reason: f"smsp__average_warps_issue_stalled_{counter}_per_issue_active.ratio"
    for reason, counter in {
        "memory": "long_scoreboard",
        "shared memory, exponentials": "short_scoreboard",
        "tensor cores": "gmma",
        "other warps": "barrier",
        "an instruction before": "wait",
        "a busy unit": "math_pipe_throttle",
        "shared memory's queue": "mio_throttle",
        "memory's queue": "lg_throttle",
    }.items()
}
COLUMNS = ("kernel", "launches", "ms", "gb", *SHARES, "waits_for")


#: Seconds between two looks at how far ``ncu`` is.
WAIT = 5


def count(
    command: Sequence[str], log: Path, say: Callable[[int], None], once: bool = False
) -> list[dict]:
    """Rows of :data:`COLUMNS` of the package's kernels that ``command`` starts, the longest first.

    Args:
        command: a program and its arguments.
        log: where ``ncu`` writes what it found.
        say: is told again and again how many launches were counted.
        once: count only the first launch of a kernel of those that have as many programs, threads
            and bytes of shared memory. It spares the blocks of a stage that are alike, and hides
            what is as large and does something else, such as a product of longer rows.

    Raises:
        ValueError: if there is no ``ncu``, it fails, or found none of the kernels.
    """
    from swin_backbone.ops.triton.kernels import all_kernels  # imports Triton

    program = shutil.which("ncu")
    if program is None:
        raise ValueError("counters need NVIDIA's Nsight Compute: ncu is not in PATH")
    metrics = ",".join((TIME, BYTES, *SHARES.values(), *STALLS.values()))
    options = ["--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none"]
    options += ["--kernel-name", f"regex:^({'|'.join(all_kernels())})$"]
    options += ["--metrics", metrics, "--log-file", str(log)]
    if once:
        options += ["--filter-mode", "per-launch-config", "--launch-count", "1"]
    with subprocess.Popen([program, *options, *command], stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                running.wait(WAIT)
            say(sum("Profiling" in line for line in _lines(log)))
    lines = _lines(log)
    if running.returncode:
        said = [line for line in lines if "ERROR" in line] or ["nothing"]
        raise ValueError(f"ncu ended with status {running.returncode} and said {said[-1]!r}")
    rows = summed(lines)
    if not rows:
        raise ValueError(f"{' '.join(command)} started none of the package's kernels")
    return rows


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def summed(lines: Iterable[str]) -> list[dict]:
    """Rows by kernel from the lines of ``ncu --csv --page raw``: sums of times and bytes, and means
    of shares and waits, a launch counting by its time."""
    quoted = [line for line in lines if line.startswith('"')]
    launches = list(csv.DictReader(quoted))[1:]  # after the names come the units
    by_kernel = defaultdict(list)
    for launch in launches:
        by_kernel[launch["Kernel Name"]].append(launch)
    rows = [_row(name, found) for name, found in by_kernel.items()]
    return sorted(rows, key=lambda row: -row["ms"])


def _row(name: str, launches: list[dict]) -> dict:
    times = [_number(launch[TIME]) for launch in launches]

    def mean(metric: str) -> float:
        values = [_number(launch[metric]) for launch in launches]
        return sum(t * v for t, v in zip(times, values, strict=True)) / sum(times)

    waits = {reason: mean(metric) for reason, metric in STALLS.items()}
    return {
        "kernel": name,
        "launches": len(launches),
        "ms": round(sum(times) / 1e6, 4),
        "gb": round(sum(_number(launch[BYTES]) for launch in launches) / 1e9, 4),
        **{column: round(mean(metric), 1) for column, metric in SHARES.items()},
        "waits_for": max(waits, key=waits.get),
    }


def _number(text: str) -> float:
    return float(text.replace(",", ""))
