"""Curves of training runs: read from mmengine's logs or kept CSV, as tables, CSV and a picture."""

from __future__ import annotations

import csv
import itertools
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from swin_backbone.atomic_files import write_text, write_whole
from swin_backbone.cli.csv_text import as_csv

#: What is logged of an evaluation: its name here, and what makes it percent.
SCORES = {"mIoU": ("mIoU", 1), "coco/bbox_mAP": ("box AP", 100), "coco/segm_mAP": ("mask AP", 100)}
WARM_UP = 50  # iterations left out of the speed
#: What curves may stand over, and how a plot calls it.
AXES = {
    "iterations": "iteration",
    "seconds": "seconds of training, compiling counted, evaluations not",
    "warm-seconds": "seconds of training, neither compiling nor evaluations counted",
}
DESCRIPTION = "run.json"  # in a run's work dir: what the run is
#: Of a CSV; the first ones stand in a run's description.
COLUMNS = ("date", "device", "torch", "config", "variant", "seed")
POINTS = ("iteration", "seconds", "quantity", "value")


def find_runs(folder: Path) -> list[dict]:
    """What the runs below a folder are, and how they went; those that logged nothing are left.

    Instead of a folder, a file of :func:`write_csv`.
    """
    if folder.suffix == ".csv":
        return read_csv(folder)
    runs = []
    for description in sorted(folder.rglob(DESCRIPTION)):
        logs = sorted(description.parent.glob("*/vis_data/scalars.json"))
        if logs:
            runs.append({**json.loads(description.read_text()), **summarise(logs[-1])})
    return runs


def summarise(log: Path) -> dict:
    """Loss and scores by iteration, seconds of training and peak memory of one run's log.

    ``start_seconds`` is what the first :data:`WARM_UP` iterations took longer than as many later
    ones: compiled kernels, cuDNN's choices, started workers.
    """
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if SCORES.keys() & record.keys()]
    keys = [key for key in SCORES if any(key in record for record in evaluations)]
    times = [record["time"] for record in steps if record["iter"] > WARM_UP]
    iterations = [record["iter"] for record in steps]
    seconds = elapsed(iterations, [record["time"] for record in steps])
    return {
        **speed(iterations, seconds, times),
        "loss": [record["loss"] for record in steps],
        "score_iterations": [record["step"] for record in evaluations],
        "scores": {SCORES[key][0]: [r[key] * SCORES[key][1] for r in evaluations] for key in keys},
        "peak_memory_mib": max((record.get("memory", 0) for record in steps), default=0),
    }


def speed(iterations: list[int], seconds: list[float], times: list[float]) -> dict:
    """When iterations were done, how long one takes, and what the first ones took longer.

    Args:
        iterations: that were logged.
        seconds: of training up to each of them.
        times: of each logged iteration after the first :data:`WARM_UP`.
    """
    each = statistics.median(times) if times else None
    first = [pair for pair in zip(iterations, seconds, strict=True) if pair[0] <= WARM_UP]
    return {
        "iterations": iterations,
        "seconds": seconds,
        "seconds_per_iteration": each,
        "start_seconds": first[-1][1] - first[-1][0] * each if first and each else None,
    }


def read_csv(path: Path) -> list[dict]:
    """What :func:`write_csv` wrote. It has neither the peak of memory nor the whole run's seconds.

    Raises:
        ValueError: if the file holds something else.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    if not lines or set(COLUMNS + POINTS) - set(lines[0]):
        raise ValueError(f"{path} is no CSV file of training curves")
    by_run: dict[tuple, list[dict]] = {}
    for line in lines:
        by_run.setdefault(tuple(line[name] for name in COLUMNS), []).append(line)
    return [as_run(dict(zip(COLUMNS, run, strict=True)), rows) for run, rows in by_run.items()]


def as_run(about: dict, rows: list[dict]) -> dict:
    """One run of :func:`read_csv`."""
    losses = [row for row in rows if row["quantity"] == "loss"]
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["quantity"] != "loss":
            scores.setdefault(row["quantity"], []).append(float(row["value"]))
    evaluated = {int(row["iteration"]): None for row in rows if row["quantity"] != "loss"}
    iterations = [int(row["iteration"]) for row in losses]
    seconds = [float(row["seconds"]) for row in losses]
    points = list(zip(iterations, seconds, strict=True))
    times = [
        (b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points) if a[0] >= WARM_UP
    ]
    return {
        **about,
        **speed(iterations, seconds, times),
        "loss": [float(row["value"]) for row in losses],
        "score_iterations": list(evaluated),
        "scores": scores,
    }


def elapsed(iterations: list[int], seconds_each: list[float]) -> list[float]:
    """Seconds of training up to each of these iterations.

    Args:
        iterations: that were logged.
        seconds_each: of an iteration, the mean since the one before.
    """
    total, before, result = 0.0, 0, []
    for iteration, seconds in zip(iterations, seconds_each, strict=True):
        total += max(iteration - before, 0) * seconds  # a resumed run's log goes back
        before = iteration
        result.append(total)
    return result


def positions(run: dict, iterations: list[int], over: str) -> list[float]:
    """Where values of these iterations stand in a plot over one of :data:`AXES`.

    Warm seconds count the first :data:`WARM_UP` iterations as if they took no longer than the
    later ones do; a run that has none of these yet keeps its seconds.
    """
    if over == "iterations" or not run["iterations"]:
        return iterations
    seconds, start = run["seconds"], run.get("start_seconds")
    if over == "warm-seconds" and start is not None:
        each = run["seconds_per_iteration"]
        pairs = zip(run["iterations"], seconds, strict=True)
        seconds = [i * each if i <= WARM_UP else second - start for i, second in pairs]
    return np.interp(iterations, [0, *run["iterations"]], [0, *seconds]).tolist()


def seconds_to(run: dict, name: str, score: float, over: str = "seconds") -> float | None:
    """Seconds of training until a score is first reached, ``None`` if it never is.

    Between two evaluations the score counts as linear; what the first one finds above it was
    reached no later than there.
    """
    places = positions(run, run["score_iterations"], over)
    values = run["scores"].get(name, [])
    for index, value in enumerate(values):
        if value >= score:
            if index == 0:
                return places[0]
            pair = slice(index - 1, index + 1)
            return float(np.interp(score, values[pair], places[pair]))
    return None


def common_score(runs: Iterable[dict], name: str) -> float:
    """The highest score that all runs reach."""
    return min(max(run["scores"][name]) for run in runs)


def mean_curve(curves: list[tuple[list[int], list[float], list[float]]]) -> tuple[list, list]:
    """Mean of curves where all have a value.

    Args:
        curves: of each, its iterations, where they stand, and the values there.

    Returns:
        Mean positions and mean values.
    """
    tables = [
        dict(zip(its, zip(places, values, strict=True), strict=True))
        for its, places, values in curves
    ]
    common = [iteration for iteration in curves[0][0] if all(iteration in t for t in tables)]
    means = [np.mean([table[iteration] for table in tables], axis=0) for iteration in common]
    return [float(place) for place, _ in means], [float(value) for _, value in means]


def score_names(runs: list[dict], least: int = 1) -> list[str]:
    """Scores of which any of the runs has at least so many values."""
    values = [item for run in runs for item in run["scores"].items()]
    return list(dict.fromkeys(name for name, scores in values if len(scores) >= least))


def by_variant(runs: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """Runs of the same config and variant, which differ in their seeds."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for run in runs:
        groups.setdefault((Path(run["config"]).stem, run["variant"]), []).append(run)
    return groups


def print_table(runs: list[dict], console: Console | None = None) -> None:
    """A row a run, in Markdown."""
    scores = score_names(runs)
    columns = [f"{which} {name}" for name in scores for which in ("last", "best")]
    names = ("config", "variant", "seed", "iterations", *columns, "iter/s", "start, s", "run, s")
    table = Table(*names, "MiB", box=box.MARKDOWN)
    for run in runs:
        seconds = run["seconds_per_iteration"]
        table.add_row(
            Path(run["config"]).stem,
            run["variant"],
            str(run["seed"]),
            str(max(run["iterations"], default=0)),
            *(text for name in scores for text in last_and_best(run["scores"].get(name))),
            f"{1 / seconds:.2f}" if seconds else "-",
            rounded(run["start_seconds"], 1),
            rounded(run.get("run_seconds"), 0),
            rounded(run.get("peak_memory_mib"), 0),
        )
    (console or Console(width=160)).print(table)


def print_means(runs: list[dict], console: Console | None = None) -> None:
    """Means over seeds, and how long a score took that all runs of a config reach, in Markdown."""
    groups = by_variant(runs)
    names = ("config", "variant", "seeds", "score", "last, mean", "reaches")
    table = Table(*names, "after, s", "warm, s", box=box.MARKDOWN)
    for (config, variant), same in groups.items():
        rivals = [run for key, group in groups.items() if key[0] == config for run in group]
        for name in score_names(same):
            if not all(run["scores"].get(name) for run in rivals):
                continue  # some run has not been evaluated yet
            target = common_score(rivals, name)
            table.add_row(
                config,
                variant,
                str(len(same)),
                name,
                f"{statistics.mean(run['scores'][name][-1] for run in same):.2f}",
                f"{target:.2f}",
                *(mean_seconds_to(same, name, target, over) for over in list(AXES)[1:]),
            )
    if table.row_count:
        (console or Console(width=160)).print(table)


def mean_seconds_to(runs: list[dict], name: str, score: float, over: str) -> str:
    """As the table shows it."""
    return f"{statistics.mean(seconds_to(run, name, score, over) for run in runs):.1f}"


def last_and_best(values: list[float] | None) -> tuple[str, str]:
    """As the table shows them; a dash where there are none."""
    return (f"{values[-1]:.2f}", f"{max(values):.2f}") if values else ("-", "-")


def rounded(value: float | None, digits: int) -> str:
    """As the table shows it; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def write_csv(runs: list[dict], path: Path) -> None:
    """Every logged loss and score, a row each."""
    rows, names = [], [*COLUMNS, *POINTS]
    for run in runs:
        about = [run.get(name, "") for name in COLUMNS]
        curves = [("loss", run["iterations"], run["loss"])]
        curves += [(name, run["score_iterations"], v) for name, v in run["scores"].items()]
        for quantity, iterations, values in curves:
            places = positions(run, iterations, "seconds")
            for iteration, place, value in zip(iterations, places, values, strict=True):
                row = [*about, iteration, f"{place:.3f}", quantity, f"{value:.5g}"]
                rows.append(dict(zip(names, row, strict=True)))
    write_text(path, as_csv(rows, names))


def draw(runs: list[dict], path: Path, smoothing: float, over: str = "iterations") -> None:
    """Losses, and beside them scores with a curve to draw: a colour a variant.

    Seeds of a variant are thin lines, their mean a thick one.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scores = score_names(runs, least=2)
    columns = 1 + len(scores)
    figure, axes = plt.subplots(1, columns, figsize=(6 * columns, 4.5), squeeze=False)
    variants = list(dict.fromkeys(run["variant"] for run in runs))
    for (config, variant), same in by_variant(runs).items():
        label = variant if len({run["config"] for run in runs}) == 1 else f"{variant}, {config}"
        style = {"color": f"C{variants.index(variant)}"}
        losses = [(run, run["iterations"], smooth(run["loss"], smoothing)) for run in same]
        draw_group(axes[0, 0], losses, over, label, style)
        for panel, name in zip(axes[0, 1:], scores, strict=True):
            found = [
                (r, r["score_iterations"], r["scores"][name]) for r in same if name in r["scores"]
            ]
            draw_group(panel, found, over, label, {**style, "marker": "o", "markersize": 3})
    label = f"training loss (smoothed, {smoothing:g})" if smoothing else "training loss"
    across = AXES[over]
    axes[0, 0].set(xlabel=across, ylabel=label, yscale="log")
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_minor_formatter("{x:.2g}")
    for panel, name in zip(axes[0, 1:], scores, strict=True):
        panel.set(xlabel=across, ylabel=f"val {name}, %")
    for panel in axes.flat:
        panel.grid(alpha=0.3, which="both")
        panel.legend()
    figure.suptitle(", ".join(sorted({Path(run["config"]).stem for run in runs})), fontsize=10)
    figure.tight_layout()
    write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=110))


def draw_group(panel, found: list[tuple[dict, list, list]], over: str, label: str, style: dict):
    """One variant's seeds in one panel: of each, its run, iterations, and values there."""
    curves = [(its, positions(run, its, over), values) for run, its, values in found]
    if len(curves) == 1:
        _, places, values = curves[0]
        panel.plot(
            places, values, linewidth=1, label=f"{label}, seed {found[0][0]['seed']}", **style
        )
        return
    for _, places, values in curves:
        panel.plot(places, values, linewidth=0.6, alpha=0.5, **{**style, "marker": ""})
    if curves:
        panel.plot(*mean_curve(curves), linewidth=2, label=f"{label}, {len(curves)} seeds", **style)


def smooth(values: list[float], weight: float) -> list[float]:
    """Exponential moving average, unbiased at the start."""
    smoothed, average, norm = [], 0.0, 0.0
    for value in values:
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        smoothed.append(average / norm)
    return smoothed
