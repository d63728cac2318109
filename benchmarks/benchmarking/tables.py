"""The results as tables: for the terminal, and in Markdown for documents."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .results import Benchmark, CaseResult, Row

#: Columns of a log: wide enough that no line of a table breaks.
LOG_WIDTH = 160
HEADINGS = (
    "implementation",
    "ms",
    "host ms",
    "noise",
    "img/s",
    "ours is",
    "peak GB",
    "first call",
    "of matmul",
    "of copy",
    "x floor",
)
LEGEND = (
    "ms: median; on a GPU of calls that follow each other without waiting, for latency of single "
    "calls; host ms: until a call returns, the device idle before; noise: half the distance of "
    "their quartiles; ours is: how much faster ours, eager, is; first call: seconds, compilation "
    "included; of matmul, of copy: part of the measured ceilings; x floor: times the least time "
    "that the ceilings allow"
)


def console_for_tables() -> Console:
    """As wide as the terminal, or as a log."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def show(benchmark: Benchmark, console: Console) -> None:
    """Print what is said once for all cases: their tables are :func:`case_table`."""
    for line in heading(benchmark):
        console.print(line, highlight=False)
    console.print(peers_table(benchmark))
    console.print(LEGEND, style="dim")


def heading(benchmark: Benchmark) -> list[str]:
    """What was run, when, on what, and what that reaches."""
    c = benchmark.ceilings
    versions = ", ".join(f"{name} {version}" for name, version in benchmark.versions.items())
    return [
        f"{benchmark.device}; {versions}; {benchmark.date}; {benchmark.elapsed:.0f} s",
        f"measured ceilings: copy of {c.copy_bytes / 2**20:.0f} MiB {c.copy / 1e9:.0f} GB/s, "
        f"{c.product_size}^3 matmul in {c.dtype} {c.product / 1e12:.2f} TFLOP/s",
        f"command: {benchmark.command}",
    ]


def floor_in_words(result: CaseResult, benchmark: Benchmark) -> str:
    """The least work of a case and how long the ceilings take for it."""
    floor = result.floor
    return (
        f"least work: {floor.flops / 1e9:.1f} GFLOP and {floor.bytes / 1e6:.0f} MB a step, "
        f"{1e3 * floor.seconds(benchmark.ceilings):.3g} ms"
    )


def case_table(result: CaseResult, benchmark: Benchmark) -> Table:
    """One case for the terminal."""
    table = Table(
        title=f"{result.case.title}\n{floor_in_words(result, benchmark)}", title_justify="left"
    )
    table.add_column(HEADINGS[0], no_wrap=True)
    for name in HEADINGS[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("not measured because")
    for row in result.rows:
        style = "bold" if row.implementation.startswith("ours") else None
        table.add_row(row.label, *cells(row, result, benchmark), row.reason or "", style=style)
    return table


def cells(row: Row, result: CaseResult, benchmark: Benchmark) -> list[str]:
    """Numbers of one row, in the order of :data:`HEADINGS`."""
    if row.seconds is None:
        return ["-"] * (len(HEADINGS) - 1)
    floor, ceilings = result.floor, benchmark.ceilings
    host = "-" if row.host_seconds is None else f"{1e3 * row.host_seconds:.3g}"
    spread = "-" if row.spread is None else f"{row.spread:.1%}"
    return [
        f"{1e3 * row.seconds:.3g}" if row.seconds < 1 else f"{1e3 * row.seconds:.0f}",
        host,
        spread,
        f"{result.case.batch / row.seconds:,.4g}",
        f"{row.seconds / result.baseline.seconds:.2f}x",
        "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f}",
        "-" if row.first_call is None else f"{row.first_call:.1f}",
        f"{floor.flops / row.seconds / ceilings.product:.1%}",
        f"{floor.bytes / row.seconds / ceilings.copy:.1%}",
        f"{row.seconds / floor.seconds(ceilings):.1f}",
    ]


def peers_table(benchmark: Benchmark) -> Table:
    """What was compared, for the terminal."""
    table = Table(title="implementations", title_justify="left")
    for name in ("name", "version", "parameters", "notes"):
        table.add_column(name)
    for row in peers_cells(benchmark):
        table.add_row(*row)
    return table


def peers_cells(benchmark: Benchmark) -> list[list[str]]:
    """Name, version, parameters of each model and notes of each implementation."""
    table = []
    for peer in benchmark.peers:
        counts = {
            result.case.model: row.parameters
            for result in benchmark.cases
            for row in result.rows
            if row.implementation == peer.name and row.parameters is not None
        }
        parameters = "; ".join(f"{model}: {count:,}" for model, count in counts.items())
        table.append([peer.name, peer.version or "-", parameters or "-", peer.note])
    return table


def as_markdown(benchmark: Benchmark) -> str:
    """Everything, for a document."""
    device, ceilings, command = heading(benchmark)
    parts = [f"{device}; {ceilings}.\n\n```bash\n{command.removeprefix('command: ')}\n```"]
    for result in benchmark.cases:
        rows = [
            [row.label, *cells(row, result, benchmark)]
            if row.seconds
            else [row.label, row.reason, *[""] * (len(HEADINGS) - 2)]
            for row in result.rows
        ]
        parts.append(f"**{result.case.title}** ({floor_in_words(result, benchmark)})")
        parts.append(_markdown_table(HEADINGS, rows))
    parts.append(
        _markdown_table(("name", "version", "parameters", "notes"), peers_cells(benchmark))
    )
    return "\n\n".join([*parts, f"{LEGEND[0].upper()}{LEGEND[1:]}."]) + "\n"


def _markdown_table(headings, rows) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rule, *escaped))
