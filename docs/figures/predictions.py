"""Draw docs/images/predictions.png: images and predictions of the demo side by side.

python docs/figures/predictions.py

The pictures are those of docs/images/demo.png, which ``make demo`` paints: the first column
(images) and the third (predictions) of some of its rows.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from swin_backbone.atomic_files import write_whole

IMAGES = Path(__file__).parent.parent / "images"
ROWS = (0, 1, 3, 5)
HEIGHT, GAP, SPACE = 190, 4, 22
HEADING = 24


def runs(inked: np.ndarray, shortest: int = 60) -> list[tuple[int, int]]:
    """First and last place, exclusive, of each run of true values that is not a line of text."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inked.astype(int), [0]])))
    return [(a, b) for a, b in edges.reshape(-1, 2).tolist() if b - a >= shortest]


def cells(sheet: np.ndarray) -> list[list[Image.Image]]:
    """The pictures of a contact sheet by row, cut out along its white gaps."""
    inked = (sheet < 250).any(axis=2)
    columns = [(8, 228), (236, 456), (464, 684)]
    found = []
    for top, bottom in runs(inked[:, : columns[0][1]].any(axis=1)):
        row = []
        for left, right in columns:
            width = int(inked[top:bottom, left:right].any(axis=0).nonzero()[0].max()) + 1
            row.append(Image.fromarray(sheet[top:bottom, left : left + width]))
        found.append(row)
    return found


def main():
    rows = cells(np.asarray(Image.open(IMAGES / "demo.png").convert("RGB")))
    pairs = []
    for index in ROWS:
        image, _, prediction = rows[index]
        width = round(image.width * HEIGHT / image.height)
        pairs.append([part.resize((width, HEIGHT), Image.LANCZOS) for part in (image, prediction)])
    total = sum(2 * image.width + GAP + SPACE for image, _ in pairs) - SPACE
    out = Image.new("RGB", (total, HEIGHT + HEADING), "white")
    draw = ImageDraw.Draw(out)
    x = 0
    for pair in pairs:
        for part, name in zip(pair, ("image", "prediction"), strict=True):
            out.paste(part, (x, HEADING))
            draw.text((x, 3), name, fill="#333333", font_size=16)
            x += part.width + GAP
        x += SPACE - GAP
    path = IMAGES / "predictions.png"
    write_whole(path, lambda unfinished: out.save(unfinished, "PNG"))
    print(path)


if __name__ == "__main__":
    main()
