"""The results as bars."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from swin_backbone.atomic_files import write_whole

from .profiling import GROUPS, Profile
from .results import Benchmark, CaseResult
from .steps import EAGER

OURS, PEERS = "#0b6e99", "#a7b3bc"
INK, FAINT = "#1f2a30", "#6b7780"
GROUP_COLOURS = dict(
    zip(
        GROUPS,
        ("#0b6e99", "#e0922f", "#4f9d69", "#b5546f", "#8a7fc4", "#a7b3bc"),
        strict=True,
    )
)


def plot_benchmark(benchmark: Benchmark, path: Path) -> None:
    """Speed of every implementation, one panel a case: images a second, milliseconds for latency.

    What was not measured is there with the reason.
    """
    results = benchmark.cases
    rows = sum(len(result.rows) + 2.5 for result in results)
    figure, axes = plt.subplots(
        len(results),
        1,
        figsize=(9, 1 + 0.27 * rows),
        squeeze=False,
        layout="constrained",
        height_ratios=[len(result.rows) + 2.5 for result in results],
    )
    for ax, result in zip(axes[:, 0], results, strict=True):
        _bars(ax, result, benchmark)
    versions = ", ".join(f"{name} {version}" for name, version in benchmark.versions.items())
    figure.suptitle(
        f"{benchmark.device}\n{versions}; {benchmark.date}",
        fontsize=9,
        color=FAINT,
        x=0.01,
        ha="left",
    )
    _save(figure, path)


def _bars(ax: Axes, result: CaseResult, benchmark: Benchmark) -> None:
    latency = result.case.mode == "latency"
    unit = "ms" if latency else "images/s"
    values = [_value(row.seconds, result, latency) for row in result.rows]
    longest = max((v for v in values if v), default=1.0)
    for place, (row, value) in enumerate(zip(result.rows, values, strict=True)):
        is_ours = row.implementation.startswith("ours")
        if value is None:
            text = row.reason if len(row.reason) < 90 else f"{row.reason[:87]}..."
            ax.text(longest * 0.01, place, text, va="center", fontsize=7, color=FAINT)
            continue
        hatch = None if row.execution == EAGER else "////"
        ax.barh(
            place, value, color=OURS if is_ours else PEERS, hatch=hatch, edgecolor="white", lw=0.5
        )
        ax.text(
            value + longest * 0.01,
            place,
            f"{value:,.4g}",
            va="center",
            fontsize=8,
            color=INK,
            weight="bold" if is_ours else "normal",
        )
    ax.set_yticks(range(len(values)), [row.label for row in result.rows], fontsize=8)
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.set_xlim(0, longest * 1.12)
    floor = result.floor.seconds(benchmark.ceilings)
    floor_text = (
        f"{1e3 * floor:.3g} ms" if latency else f"{result.case.batch / floor:,.0f} images/s"
    )
    ax.set_title(
        f"{result.case.title}: {unit}, {'less' if latency else 'more'} is better "
        f"(floor of the hardware: {floor_text})",
        fontsize=9,
        loc="left",
        color=INK,
    )
    _plain(ax)


def _value(seconds: float | None, result: CaseResult, latency: bool) -> float | None:
    if seconds is None:
        return None
    return 1e3 * seconds if latency else result.case.batch / seconds


def plot_profile(profiles: list[Profile], path: Path, most: int = 14) -> None:
    """Where the time of each step goes: its groups in one bar, then its longest kernels."""
    figure, axes = plt.subplots(
        len(profiles),
        1,
        figsize=(10, 0.5 + 4.6 * len(profiles)),
        squeeze=False,
        layout="constrained",
    )
    for ax, profile in zip(axes[:, 0], profiles, strict=True):
        _profile_bars(ax, profile, most)
    _save(figure, path)


def _profile_bars(ax: Axes, profile: Profile, most: int) -> None:
    groups = profile.groups()
    left = 0.0
    for name, seconds in groups.items():
        ax.barh(0, 1e3 * seconds, left=left, color=GROUP_COLOURS[name], edgecolor="white")
        left += 1e3 * seconds
    if profile.idle > 0:
        ax.barh(
            0, 1e3 * profile.idle, left=left, color="white", edgecolor=FAINT, hatch="..", lw=0.5
        )
    entries = profile.entries[:most]
    for place, entry in enumerate(entries, 1):
        milliseconds = 1e3 * entry.seconds
        ax.barh(place, milliseconds, color=GROUP_COLOURS[entry.group])
        fraction = entry.seconds / profile.wall
        text = f" {milliseconds:.3g} ms ({fraction:.0%}), {entry.calls} calls"
        ax.text(milliseconds, place, text, va="center", fontsize=7, color=INK)
    labels = ["all", *(_shorten(entry.name) for entry in entries)]
    ax.set_yticks(range(len(labels)), labels, fontsize=7)
    ax.invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=GROUP_COLOURS[name]) for name in groups]
    names = [f"{name} {1e3 * seconds:.3g} ms" for name, seconds in groups.items()]
    if profile.idle > 0:
        handles.append(plt.Rectangle((0, 0), 1, 1, fc="white", ec=FAINT, hatch=".."))
        names.append(f"device idle {1e3 * profile.idle:.3g} ms")
    ax.legend(handles, names, fontsize=7, loc="lower right", frameon=False)
    ax.set_title(profile.title, fontsize=9, loc="left", color=INK)
    ax.set_xlabel("milliseconds", fontsize=8, color=FAINT)
    _plain(ax)


def _shorten(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=7, colors=FAINT)


def _save(figure, path: Path) -> None:
    write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=150))
    plt.close(figure)
