"""The measured results that pictures are drawn from: benchmarks/results/*.csv; and their bars."""

import csv
from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).parent.parent
RESULTS = DOCS.parent / "benchmarks" / "results"
OURS, PEERS = "#2a6fbb", "#a9b1ba"


def newest_first(kind: str) -> list[list[dict]]:
    """The rows of each ``KIND-CARD-YYYY-MM-DD*.csv``, by the date in its name.

    Args:
        kind: with which the names begin.

    Raises:
        FileNotFoundError: there is no such file.
    """
    files = sorted(RESULTS.glob(f"{kind}-*.csv"), key=lambda path: path.stem.split("-", 2)[2])
    if not files:
        raise FileNotFoundError(f"kind {kind!r}: no such file in {RESULTS}")
    return [read(path) for path in reversed(files)]


def read(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def where_and_when(rows: Iterable[dict]) -> str:
    """The card, and the days from the first to the last of results, for a title."""
    rows = list(rows)
    days = sorted({row["date"][:10] for row in rows})
    return f"{rows[0]['device']}, {' to '.join(dict.fromkeys((days[0], days[-1])))}"


def label_bars(axes, names: list[str], end: float, fontsize: int = 9) -> None:
    """Names beside horizontal bars, which say their values themselves, the first on top.

    Args:
        axes: matplotlib's, with a bar at each of 0, 1, ...
        names: of the bars.
        end: of the axis of values, with room for what stands behind the longest bar.
        fontsize: of the names, in points.
    """
    axes.set_yticks(range(len(names)), names, fontsize=fontsize)
    axes.invert_yaxis()
    axes.set(xlim=(0, end), xticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
