"""Draw docs/images/structure.png: the parts of the package, each above all that it imports.

python docs/figures/structure.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from swin_backbone.atomic_files import write_whole

OUT = Path(__file__).parent.parent / "images" / "structure.png"
STYLE = {"arrowstyle": "-|>", "color": "#333333"}
GREY, GREEN, BLUE, ORANGE, WHITE = "#eeeeee", "#d9ead3", "#cfe2f3", "#fce5cd", "#ffffff"
OPENMMLAB = "plugs into mmengine:\nhooks, optimizers,\ndata, compatibility"
INFERENCE = "predicting, painting,\nfeatures, export,\nvisualization"
MODEL = "nn.Modules: backbone, stages, blocks, attention, patch embedding and merging; presets"
CHECKPOINTS = "reading files, recognising layouts, fitting tensors"
OPS = "functions on tensors: attention, residual branches, norms, losses on resized scores"
GEOMETRY = "windows, shift,\npadding, valid\nsizes, variable\nlength"
#: Name, what it is, left, bottom, width, height, colour.
BOXES = [
    ("configs/  tools/  examples/  benchmarks/", "what users run", 0.4, 9.1, 11.2, 0.7, GREY),
    ("cli/", "swin-backbone train, test, predict, export, ...", 0.4, 8.0, 11.2, 0.7, GREY),
    ("inference/", INFERENCE, 0.4, 6.2, 3.4, 1.4, ORANGE),
    ("openmmlab/", OPENMMLAB, 4.3, 6.2, 3.4, 1.4, GREEN),
    (
        "acceleration/  graphs/",
        "rewrites of whole\nmodels; CUDA graphs",
        8.2,
        6.2,
        3.4,
        1.4,
        ORANGE,
    ),
    ("model/", MODEL, 0.4, 4.95, 11.2, 0.85, BLUE),
    ("checkpoints/", CHECKPOINTS, 0.4, 3.85, 11.2, 0.7, BLUE),
    ("", "", 0.4, 0.3, 11.2, 3.15, BLUE),
    ("dispatch", "can it run these tensors, and if not, why", 3.1, 2.05, 8.2, 0.55, WHITE),
    ("reference/", "readable,\ndefines the result", 3.1, 0.5, 2.4, 1.2, WHITE),
    ("cpu/", "oneDNN, windows\nby gathered rows", 5.8, 0.5, 2.4, 1.2, WHITE),
    ("triton/", "operators of torch,\ntuning, kernels", 8.5, 0.5, 2.8, 1.2, WHITE),
    ("geometry/", GEOMETRY, 0.6, 0.5, 2.2, 2.1, WHITE),
]
ARROWS = [
    ((6.0, 9.05), (6.0, 8.75)), ((2.1, 7.95), (2.1, 7.65)), ((6.0, 7.95), (6.0, 7.65)),
    ((9.9, 7.95), (9.9, 7.65)), ((2.1, 6.15), (2.1, 5.85)), ((6.0, 6.15), (6.0, 5.85)),
    ((9.9, 6.15), (9.9, 5.85)), ((3.85, 6.9), (4.25, 6.9)), ((7.75, 6.9), (8.15, 6.9)),
    ((6.0, 4.9), (6.0, 4.6)),
    ((6.0, 3.8), (6.0, 3.5)), ((4.3, 2.0), (4.3, 1.75)), ((7.0, 2.0), (7.0, 1.75)),
    ((9.9, 2.0), (9.9, 1.75)),
]  # fmt: skip


def box(axes, name, text, x, y, width, height, colour):
    style = "round,pad=0.02,rounding_size=0.1"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, style, facecolor=colour, edgecolor="#555555")
    )
    lines = text.count("\n") + 1 if text else 0
    middle, centre = x + width / 2, y + height / 2
    if height < 0.9:  # side by side
        axes.text(x + 0.15, centre, name, weight="bold", va="center", fontsize=10)
        axes.text(x + width - 0.15, centre, text, va="center", ha="right", fontsize=9)
    else:
        axes.text(middle, centre + 0.14 * lines, name, weight="bold", ha="center", va="bottom",
                  fontsize=10)  # fmt: skip
        axes.text(middle, centre + 0.08 * lines, text, ha="center", va="top", fontsize=9)


def main():
    figure, axes = plt.subplots(figsize=(10, 7.6))
    for entry in BOXES:
        box(axes, *entry)
    axes.text(0.55, 3.2, "ops/", weight="bold", va="center", fontsize=10)
    axes.text(11.45, 3.2, OPS, va="center", ha="right", fontsize=9)
    for start, end in ARROWS:
        axes.annotate("", xy=end, xytext=start, arrowprops=STYLE)
    axes.plot([-0.05, 12.05], [5.98, 5.98], color="#bb4444", linewidth=1, linestyle=(0, (5, 4)))
    axes.text(12.1, 6.03, "may need\nmmengine", fontsize=8, color="#bb4444", va="bottom")
    axes.text(12.1, 5.93, "torch alone", fontsize=8, color="#bb4444", va="top")
    axes.set(xlim=(0, 13.2), ylim=(0.1, 10.0))
    axes.axis("off")
    figure.tight_layout(pad=0.3)
    write_whole(OUT, lambda unfinished: figure.savefig(unfinished, dpi=100))
    print(OUT)


if __name__ == "__main__":
    main()
