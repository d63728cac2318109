"""Draw docs/images/whole_models.png: a training step of a whole model, from the newest results.

python docs/figures/whole_models.py
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from result_files import DOCS, OURS, PEERS, label_bars, newest_first

from swin_backbone.atomic_files import write_whole

OUT = DOCS / "images" / "whole_models.png"
TASK = "UPerNet Swin-T 512x512 b16 train"
#: Rows of the results by their name there, and what a reader calls them.
BARS = {
    "mmseg": "mmseg",
    "transformers": "transformers",
    "mmseg, compiled": "mmseg, torch.compile",
    "SwinBackbone": "with SwinBackbone",
    "SwinBackbone, accelerated, compiled": "accelerated, torch.compile",
    "SwinBackbone, accelerated": "and accelerate(model)",
}


def newest_rows() -> list[dict]:
    """The rows of ``TASK`` in the newest file of results, by the date in its name, that has all."""
    for lines in newest_first("models"):
        rows = {row["way"]: row for row in lines if row["task"] == TASK and row["ms"]}
        if BARS.keys() <= rows.keys():
            return [rows[name] for name in BARS]
    raise FileNotFoundError(f"no file of results has all of {', '.join(BARS)}")


def draw(rows: list[dict]) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(9, 0.46 * len(rows) + 0.8))
    stock = float(rows[0]["ms"])
    for place, row in enumerate(rows):
        milliseconds = float(row["ms"])
        ours = row["way"].startswith("SwinBackbone")
        axes.barh(place, milliseconds, 0.68, color=OURS if ours else PEERS)
        text = f"{milliseconds:.0f} ms, {float(row['peak_gb']) + 1e-6:.1f} GB"
        if place == len(rows) - 1:
            text += f": {stock / milliseconds:.1f} times as fast as mmseg"
        weight = "bold" if place == len(rows) - 1 else "normal"
        axes.text(milliseconds + stock / 100, place, text, va="center", fontsize=11, weight=weight)
    label_bars(axes, [BARS[row["way"]] for row in rows], 1.22 * stock, fontsize=11)
    title = "A training step of UPerNet, Swin-T, 16 x 512x512"
    axes.set_title(
        f"{title} ({rows[0]['device']}, {rows[0]['date'][:10]})", loc="left", fontsize=11
    )
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    figure = draw(newest_rows())
    write_whole(OUT, lambda unfinished: figure.savefig(unfinished, dpi=110))
    print(OUT)
