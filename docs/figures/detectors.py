"""Draw docs/images/detectors_h200.png: steps and predictions of detectors, from the newest results.

python docs/figures/detectors.py
"""

import itertools

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from result_files import DOCS, OURS, PEERS, label_bars, newest_first, where_and_when

from swin_backbone.atomic_files import write_whole

OUT = DOCS / "images" / "detectors_h200.png"
TASKS = {
    "mask2former Swin-T 512x512 b2 train": "Mask2Former, 512x512, step of 2 images",
    "mask2former Swin-T 512x512 b8 train": "Mask2Former, step of 8 images",
    "mask2former Swin-T 512x512 b1 predict": "Mask2Former, prediction of an image",
    "dino Swin-T 800x1344 b2 train": "DINO, 800x1344, step of 2 images",
    "mask-rcnn Swin-T 800x1344 b2 train": "Mask R-CNN, 800x1344, step of 2 images",
    "mask-rcnn Swin-T 800x1344 b8 train": "Mask R-CNN, step of 8 images",
    "mask-rcnn Swin-T 800x1344 b1 predict": "Mask R-CNN, prediction of an image",
}
WAYS = {
    "mmdet": "mmdet",
    "SwinBackbone, accelerated": "accelerated",
    "SwinBackbone, accelerated, graphs": "and graphs",
}


def measured() -> dict[str, list[dict]]:
    """By task: the rows of the newest file of results that has all of ``WAYS``."""
    found: dict[str, list[dict]] = {}
    for lines in newest_first("detectors-h200"):
        for task in TASKS.keys() - found.keys():
            rows = {row["way"]: row for row in lines if row["task"] == task and row["ms"]}
            if WAYS.keys() <= rows.keys():
                found[task] = [rows[way] for way in WAYS]
    return {task: found[task] for task in TASKS}


def draw(rows: dict[str, list[dict]]) -> plt.Figure:
    """A panel for each task, as their times have other scales."""
    figure, panels = plt.subplots(len(rows), 1, figsize=(8, 0.95 * len(rows) + 0.5))
    for axes, (task, bars) in zip(panels, rows.items(), strict=True):
        draw_panel(axes, bars)
        axes.set_title(TASKS[task], loc="left", fontsize=10)
    when = where_and_when(itertools.chain(*rows.values()))
    title = f"Milliseconds, Swin-T, bfloat16 ({when})"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def draw_panel(axes: plt.Axes, rows: list[dict]) -> None:
    """Bars of one task; the fastest says how it compares with mmdet."""
    times = [float(row["ms"]) for row in rows]
    for place, (row, milliseconds) in enumerate(zip(rows, times, strict=True)):
        axes.barh(place, milliseconds, 0.72, color=PEERS if row["way"] == "mmdet" else OURS)
        text = f"{milliseconds:.3g}"
        if milliseconds == min(times):
            text += f": {times[0] / milliseconds:.1f} times as fast"
        axes.text(milliseconds + max(times) / 80, place, text, va="center", fontsize=9)
    label_bars(axes, [WAYS[row["way"]] for row in rows], 1.15 * max(times))


if __name__ == "__main__":
    figure = draw(measured())
    write_whole(OUT, lambda unfinished: figure.savefig(unfinished, dpi=100))
    print(OUT)
