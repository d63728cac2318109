"""Draw docs/images/where_time_goes.png: an iteration of whole runs, from the newest results.

python docs/figures/where_time_goes.py
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from result_files import DOCS, OURS, PEERS, newest_first

from swin_backbone.atomic_files import write_whole

OUT = DOCS / "images" / "where_time_goes.png"
BATCHES = ("2", "16")
#: Ways of training by their name in the results, and what a reader calls them.
WAYS = {
    "stock": "mmseg",
    "fast": "--with fast",
    "graphs": "--with fast cuda_graphs",
}
#: Columns of the results, what they are called, and their colours.
PARTS = {
    "waiting for data ms": ("waiting for data", "#c0504d"),
    "train_step ms": ("train_step", OURS),
    "hooks and loop ms": ("hooks, loop, the card's end", PEERS),
}


def newest_rows() -> dict[tuple[str, str], dict]:
    """By batch and way: of the newest file of results that has all."""
    wanted = {(batch, way) for batch in BATCHES for way in WAYS}
    for lines in newest_first("data-h200"):
        rows = {(row["batch"], row["way"]): row for row in lines if row["what"] == "run"}
        if wanted <= rows.keys():
            return rows
    raise FileNotFoundError(f"no file of results has runs of {', '.join(WAYS)}")


def draw(rows: dict[tuple[str, str], dict]) -> plt.Figure:
    figure, panels = plt.subplots(len(BATCHES), 1, figsize=(9, 3.9))
    for axes, batch in zip(panels, BATCHES, strict=True):
        longest = float(rows[batch, "stock"]["iteration ms"])
        for place, way in enumerate(WAYS):
            row, left = rows[batch, way], 0.0
            for column, (name, colour) in PARTS.items():
                axes.barh(place, float(row[column]), 0.66, left, color=colour, label=name)
                left += float(row[column])
            text = f"{left:.1f} ms, {float(row['it/s']):.1f} iterations a second"
            weight = "normal" if way == "stock" else "bold"
            axes.text(left + longest / 100, place, text, va="center", fontsize=10, weight=weight)
        axes.set_yticks(range(len(WAYS)), WAYS.values(), fontsize=10)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.38 * longest)
        axes.xaxis.set_visible(False)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(f"batch {batch}", loc="left", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    panels[0].legend(found.values(), found, loc="lower right", fontsize=9, frameon=False)
    row = rows[BATCHES[0], "stock"]
    figure.suptitle(
        f"Where an iteration's time goes: UPerNet, Swin-T, 512x512 from JPEG files "
        f"({row['device']}, {row['date'][:10]})",
        x=0.01, ha="left", fontsize=11,
    )  # fmt: skip
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    figure = draw(newest_rows())
    write_whole(OUT, lambda unfinished: figure.savefig(unfinished, dpi=110))
    print(OUT)
