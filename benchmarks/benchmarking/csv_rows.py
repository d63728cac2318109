"""The results as lines of a CSV file: one row of one case each, with date, card and versions."""

from __future__ import annotations

from pathlib import Path

from swin_backbone.atomic_files import write_text
from swin_backbone.cli.csv_text import as_csv

from .results import Benchmark, CaseResult

COLUMNS = (
    "date", "device", "torch", "triton", "version", "arch", "window", "size", "batch", "dtype",
    "mode", "implementation", "execution", "ms", "host_ms", "images_per_second", "peak_gb",
    "first_call_s", "reason", "command",
)  # fmt: skip


def write_csv(benchmark: Benchmark, path: Path) -> None:
    """Write every row, over what was there."""
    lines = [line for result in benchmark.cases for line in as_lines(result, benchmark)]
    write_text(path, as_csv(lines, COLUMNS))


def as_lines(result: CaseResult, benchmark: Benchmark) -> list[dict[str, object]]:
    """The rows of one case; what was not measured has a reason in place of figures."""
    case = result.case
    rows, columns = case.size
    about = {
        "date": benchmark.date,
        "device": benchmark.device,
        "torch": benchmark.versions.get("torch", ""),
        "triton": benchmark.versions.get("triton", ""),
        "version": case.version,
        "arch": case.arch,
        "window": case.window,
        "size": f"{rows}x{columns}",
        "batch": case.batch,
        "dtype": case.dtype,
        "mode": case.mode,
    }
    return [
        {
            **about,
            "implementation": row.implementation,
            "execution": row.execution,
            "ms": f"{1e3 * row.seconds:.3f}" if row.seconds else "",
            "host_ms": "" if row.host_seconds is None else f"{1e3 * row.host_seconds:.3f}",
            "images_per_second": f"{case.batch / row.seconds:.1f}" if row.seconds else "",
            "peak_gb": "" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f}",
            "first_call_s": "" if row.first_call is None else f"{row.first_call:.1f}",
            "reason": row.reason or "",
            "command": benchmark.command,
        }
        for row in result.rows
    ]
