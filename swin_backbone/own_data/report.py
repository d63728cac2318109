"""What was found in a folder, for a person: a table, and a picture of a few samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image
from rich.table import Table

from ..inference.visualization import add_legend
from .coco import CocoFile
from .segmentation import LabelMaps

#: Height of a picture on the sheet, and room between them, in pixels.
HEIGHT, GAP = 220, 8
PAPER = (255, 255, 255)


def segmentation_table(maps: LabelMaps, names: Sequence[str], title: str) -> Table:
    """A row for each class: what stands for it, images, share of the pixels."""
    table = Table(title=title)
    table.add_column("class", no_wrap=True)
    for heading in ("label", "images", "pixels"):
        table.add_column(heading, justify="right", no_wrap=True)
    whole = sum(maps.pixels) + maps.ignored
    for name, label, images, pixels in zip(
        names, maps.labels, maps.images, maps.pixels, strict=True
    ):
        table.add_row(name, str(label), str(images), _percent(pixels, whole))
    if maps.ignored:
        table.add_row("(no class)", "255" if maps.kind != "colours" else "others", "",
                      _percent(maps.ignored, whole))  # fmt: skip
    return table


def detection_table(splits: Sequence[CocoFile], title: str) -> Table:
    """A row for each class: images and objects of all splits together."""
    table = Table(title=title)
    table.add_column("class", no_wrap=True)
    for heading in ("images", "objects"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, name in enumerate(splits[0].classes):
        images = sum(split.images[index] for split in splits)
        table.add_row(name, str(images), str(sum(split.objects[index] for split in splits)))
    return table


def describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Sizes of images in a few words: ``480x360``, or ``256x256 to 1388x1040``."""
    ordered = sorted(set(sizes), key=lambda size: size[0] * size[1])
    first, last = (f"{width}x{height}" for width, height in (ordered[0], ordered[-1]))
    return first if len(ordered) == 1 else f"{first} to {last}, {len(ordered)} sizes"


def sheet(
    rows: Iterable[tuple[np.ndarray, np.ndarray]],
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> Image.Image:
    """Images and what was painted over them, side by side.

    Args:
        rows: pairs of (H, W, 3) uint8 RGB.
        names: of the classes, for the legend.
        palette: their colours.
    """
    pairs = [[_fit(one) for one in pair] for pair in rows]
    left, right = (max(pair[column].width for pair in pairs) for column in (0, 1))
    size = (left + right + 3 * GAP, len(pairs) * (HEIGHT + GAP) + GAP)
    canvas = Image.new("RGB", size, PAPER)
    for row, (image, painted) in enumerate(pairs):
        top = GAP + row * (HEIGHT + GAP)
        canvas.paste(image, (GAP, top))
        canvas.paste(painted, (left + 2 * GAP, top))
    colours = [(int(red), int(green), int(blue)) for red, green, blue in palette]
    return add_legend(np.asarray(canvas), list(names), colours)


def _fit(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels)
    width = max(1, round(picture.width * HEIGHT / picture.height))
    return picture.resize((min(width, 3 * HEIGHT), HEIGHT), Image.Resampling.BILINEAR)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / max(whole, 1)
    return f"{share:.2f} %" if share >= 0.01 or not part else "< 0.01 %"
