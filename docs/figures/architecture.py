"""Draw docs/images/architecture.png: the stages of Swin-T, their shapes, and one block.

python docs/figures/architecture.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from swin_backbone.atomic_files import write_whole

OUT = Path(__file__).parent.parent / "images" / "architecture.png"
STAGES = [
    ("stage 0", "2 blocks", 4, "96"),
    ("stage 1", "2 blocks", 8, "192"),
    ("stage 2", "6 blocks", 16, "384"),
    ("stage 3", "2 blocks", 32, "768"),
]
BLUE, ORANGE, GREEN, GREY = "#cfe2f3", "#fce5cd", "#d9ead3", "#eeeeee"


def box(axes, x, y, width, height, text, colour, size=9):
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=colour,
            edgecolor="#555555",
            linewidth=0.9,
        )
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def arrow(axes, start, end, style="-|>"):
    options = {"arrowstyle": style, "color": "#333333", "linewidth": 1.1}
    axes.annotate("", xy=end, xytext=start, arrowprops=options)


def draw_stages(axes):
    box(axes, 0.0, 2.0, 1.5, 1.4, "image\n(B, 3, H, W)\nany H, W", GREY)
    box(axes, 2.0, 2.0, 1.7, 1.4, "patch embed\n4x4 conv, LN", GREEN)
    arrow(axes, (1.55, 2.7), (1.95, 2.7))
    x = 4.2
    for index, (name, blocks, stride, channels) in enumerate(STAGES):
        arrow(axes, (x - 0.45, 2.7), (x - 0.05, 2.7))
        box(axes, x, 2.0, 1.5, 1.4, f"{name}\n{blocks}", BLUE)
        arrow(axes, (x + 0.75, 1.95), (x + 0.75, 1.45))
        shape = f"norm{index} → map {index}\n(B, {channels},\nH/{stride}, W/{stride})"
        box(axes, x - 0.1, 0.4, 1.7, 1.0, shape, ORANGE, 8)
        x += 1.95
        if index < len(STAGES) - 1:
            arrow(axes, (x - 0.4, 2.7), (x - 0.02, 2.7))
            box(axes, x + 0.03, 2.2, 1.15, 1.0, "patch\nmerging\n2x2", GREEN, 8)
            x += 1.65
    title = "SwinBackbone (arch='tiny'); sizes are rounded up"
    axes.text(0, 3.75, title, fontsize=11, weight="bold")


def draw_block(axes):
    steps = [
        ("LayerNorm", GREEN),
        ("qkv\nlinear", GREY),
        ("attention in\nwindows, shifted\nin odd blocks", BLUE),
        ("output\nlinear", GREY),
        ("+", ORANGE),
        ("LayerNorm", GREEN),
        ("MLP: linear,\nGELU,\nlinear", GREY),
        ("+", ORANGE),
    ]
    x, y = 1.3, -2.1
    axes.text(0, -0.55, "one block, on the unpadded map (B, H, W, C)", fontsize=11, weight="bold")
    arrow(axes, (0.6, y + 0.5), (x - 0.05, y + 0.5))
    axes.text(0.45, y + 0.5, "x", ha="right", va="center", fontsize=11)
    branch = 0.9
    for text, colour in steps:
        width = 0.55 if text == "+" else 1.75
        box(axes, x, y, width, 1.0, text, colour, 12 if text == "+" else 9)
        middle = x + width / 2
        if text == "+":
            top = y - 0.45
            axes.plot([branch, branch, middle], [y + 0.5, top, top], color="#333333", linewidth=1.1)
            arrow(axes, (middle, top), (middle, y - 0.05))
            branch = x + width + 0.22
        x += width + 0.45
        arrow(axes, (x - 0.4, y + 0.5), (x - 0.05, y + 0.5))


def main():
    figure, axes = plt.subplots(figsize=(15.5, 6.3))
    draw_stages(axes)
    draw_block(axes)
    axes.set(xlim=(-0.2, 17.2), ylim=(-3.0, 4.2))
    axes.axis("off")
    figure.tight_layout()
    write_whole(OUT, lambda unfinished: figure.savefig(unfinished, dpi=90))


if __name__ == "__main__":
    main()
