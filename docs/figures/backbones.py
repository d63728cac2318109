"""Draw docs/images/backbones_h200.png: every backbone beside its peers, from the results.

python docs/figures/backbones.py
"""

import itertools
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from result_files import DOCS, OURS, PEERS, label_bars, newest_first, where_and_when

from swin_backbone.atomic_files import write_whole

OUT = DOCS / "images" / "backbones_h200.png"
#: Version, architecture, window, size and batch in the results, and what a panel is called.
CASES = {
    ("v1", "tiny", "7", "512x512", "32"): "V1-T, window 7",
    ("v1", "tiny", "12", "512x512", "32"): "V1-T, window 12",
    ("v2", "tiny", "8", "512x512", "32"): "V2-T, window 8",
    ("v2", "tiny", "16", "512x512", "32"): "V2-T, window 16",
    ("v1", "base", "7", "512x512", "16"): "V1-B, window 7",
    ("v1", "large", "12", "512x512", "8"): "V1-L, window 12",
    ("v1", "tiny", "7", "800x1344", "8"): "V1-T, 800x1344",
}
MODES = {"forward": "forward", "train": "training"}
IMPLEMENTATIONS = {
    "ours": "ours",
    "ours:graphs": "by graphs",
    "timm-fused": "timm, fused",
    "timm": "timm",
    "mmseg": "mmseg",
}


def measured() -> dict[tuple, list[dict]]:
    """By case and mode: rows of one run, of that with the most implementations, or the newest."""
    runs = defaultdict(lambda: defaultdict(dict))
    for row in itertools.chain(*newest_first("backbones-h200")):
        if row.get("version") and row["execution"] == "eager" and row["ms"]:
            case = tuple(row[name] for name in ("version", "arch", "window", "size", "batch"))
            runs[case, row["mode"]][row["date"]][row["implementation"]] = row
    best = {key: max(found.items(), key=lambda item: (len(item[1]), item[0]))[1]
            for key, found in runs.items()}  # fmt: skip
    return {key: [rows[n] for n in IMPLEMENTATIONS if n in rows] for key, rows in best.items()}


def draw(rows: dict[tuple, list[dict]]) -> plt.Figure:
    figure, panels = plt.subplots(len(CASES), len(MODES), figsize=(9, 1.35 * len(CASES) + 0.6))
    for line, (case, title) in zip(panels, CASES.items(), strict=True):
        for axes, (mode, called) in zip(line, MODES.items(), strict=True):
            draw_panel(axes, rows[case, mode])
            axes.set_title(f"{title}, batch {case[-1]}, {called}", loc="left", fontsize=10)
    when = where_and_when(itertools.chain(*rows.values()))
    title = f"Images a second, bfloat16, eager ({when})"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def draw_panel(axes: plt.Axes, rows: list[dict]) -> None:
    """Bars of one case and mode; the fastest of ours says how it compares with the best peer."""
    speeds = [float(row["images_per_second"]) for row in rows]
    ours = [row["implementation"].startswith("ours") for row in rows]
    best = max(speed for speed, own in zip(speeds, ours, strict=True) if not own)
    for place, (speed, own) in enumerate(zip(speeds, ours, strict=True)):
        axes.barh(place, speed, 0.72, color=OURS if own else PEERS)
        text = f"{speed:,.0f}"
        if own and speed == max(speeds):
            text += f": {speed / best:.1f} times the best peer"
        axes.text(speed + max(speeds) / 60, place, text, va="center", fontsize=9)
    label_bars(axes, [IMPLEMENTATIONS[r["implementation"]] for r in rows], 1.75 * max(speeds))


if __name__ == "__main__":
    figure = draw(measured())
    write_whole(OUT, lambda unfinished: figure.savefig(unfinished, dpi=100))
    print(OUT)
