"""Detected objects painted over images: masks, boxes, names and scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

INK, PAPER = (25, 25, 25), (255, 255, 255)


def paint_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    colours: Sequence[Colour],
    masks: np.ndarray | None = None,
    opacity: float = 0.55,
) -> np.ndarray:
    """Paint objects over an image, the first ones on top.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (N, 4), as x1, y1, x2, y2 in pixels.
        texts: N texts for the upper left corner of each box, empty for none.
        colours: N colours, RGB, 0 to 255.
        masks: (N, H, W) bool, or ``None`` for boxes alone.
        opacity: fraction of the colour within a mask, from 0 to 1; its border has the full colour.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: if the numbers or shapes do not fit, or the opacity is out of range.
    """
    count = len(boxes)
    if len(texts) != count or len(colours) != count:
        raise ValueError(f"{count} boxes, {len(texts)} texts and {len(colours)} colours")
    if masks is not None and masks.shape != (count, *image.shape[:2]):
        raise ValueError(f"masks must be {(count, *image.shape[:2])}, got {masks.shape}")
    if not 0.0 <= opacity <= 1.0:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")
    painted = image.astype(np.float32)
    for index in reversed(range(count if masks is not None else 0)):
        mask, colour = masks[index], np.asarray(colours[index], np.float32)
        painted[mask] = (1 - opacity) * painted[mask] + opacity * colour
        painted[_border(mask)] = colour
    picture = Image.fromarray(np.rint(painted).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(int(np.clip(min(image.shape[:2]) / 40, 9, 20)))
    for index in reversed(range(count)):
        colour = tuple(int(value) for value in colours[index])
        draw.rectangle([float(value) for value in boxes[index]], outline=colour)
        if texts[index]:
            _write(draw, boxes[index][:2], texts[index], colour, font)
    return np.asarray(picture)


def _border(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask (H, W) next to one that is not in it; the image's edge is none."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask & ~inside


def _write(draw: ImageDraw.ImageDraw, corner, text: str, colour: Colour, font) -> None:
    left, _, right, bottom = draw.textbbox((0, 0), text, font)
    x, y = float(corner[0]), max(float(corner[1]) - bottom - 2, 0)
    draw.rectangle((x, y, x + right - left + 4, y + bottom + 2), fill=colour)
    bright = sum(colour) > 380
    draw.text((x + 2, y), text, INK if bright else PAPER, font)
