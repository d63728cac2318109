"""Boxes of detected objects, drawn over an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def paint_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    scores: Sequence[float],
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> Image.Image:
    """Draw each box with its class and score.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (N, 4), left, top, right, bottom, in pixels.
        labels: class of each box.
        scores: confidence of each, in [0, 1].
        names: class names.
        palette: class colours, RGB, 0 to 255.

    Returns:
        A picture of the image's size.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    size = int(np.clip(image.shape[0] / 32, 10, 24))
    font, width = ImageFont.load_default(size), max(size // 8, 1)
    for box, label, score in zip(boxes.tolist(), labels, scores, strict=True):
        colour = tuple(palette[label])
        draw.rectangle(box, outline=colour, width=width)
        text = f"{names[label]} {score:.2f}"
        place = draw.textbbox((box[0], max(box[1] - size - 2, 0)), text, font)
        draw.rectangle(place, fill=colour)
        ink = (0, 0, 0) if sum(colour) > 384 else (255, 255, 255)
        draw.text(place[:2], text, ink, font, anchor="lt")
    return picture
