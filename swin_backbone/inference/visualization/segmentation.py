"""Label maps painted over images, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

BACKGROUND = (255, 255, 255)
INK = (25, 25, 25)


def paint_overlay(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Colour], opacity: float = 0.55
) -> np.ndarray:
    """Mix each pixel with the colour of its class.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) integers; values outside the palette (an ignore label) stay unpainted.
        palette: RGB of each class, 0 to 255.
        opacity: fraction of the colour, from 0 (image only) to 1 (colour only).

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: if the shapes do not fit, or the opacity is out of range.
    """
    if image.shape != (*labels.shape, 3):
        raise ValueError(f"image {image.shape} and labels {labels.shape} do not fit together")
    if not 0.0 <= opacity <= 1.0:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")
    known = (labels >= 0) & (labels < len(palette))
    colours = np.asarray(palette, np.float32)[np.where(known, labels, 0)]
    mixed = (1 - opacity) * image + opacity * colours
    return np.where(known[..., None], np.rint(mixed), image).astype(np.uint8)


def add_legend(image: np.ndarray, names: Sequence[str], palette: Sequence[Colour]) -> Image.Image:
    """Put a column of class names and colours to the right of an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        names: classes to list; all of them are, the picture grows with them.
        palette: their colours, in the same order.

    Returns:
        A picture at least as high as the image.
    """
    height, width = image.shape[:2]
    size = int(np.clip(height / 24, 11, 28))
    font = ImageFont.load_default(size)
    line, margin = round(1.6 * size), size
    text_width = max((round(font.getlength(name)) for name in names), default=0)
    panel = 3 * margin + size + text_width if names else 0
    canvas_height = max(height, 2 * margin + line * len(names))
    canvas = Image.new("RGB", (width + panel, canvas_height), BACKGROUND)
    canvas.paste(Image.fromarray(image), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, (name, colour) in enumerate(zip(names, palette, strict=True)):
        left, top = width + margin, margin + row * line
        draw.rectangle((left, top, left + size, top + size), fill=tuple(colour), outline=INK)
        draw.text((left + size + margin // 2, top + size / 2), name, INK, font, anchor="lm")
    return canvas


def contact_sheet(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    names: Sequence[str],
    palette: Sequence[Colour],
    cell: int = 220,
) -> Image.Image:
    """Images, their true labels and predicted ones, side by side, with a legend.

    Args:
        rows: for each image the image (H, W, 3) uint8 RGB, truth (H, W) and prediction (H, W).
        names: class names.
        palette: class colours.
        cell: side of the square that each picture is fitted into, pixels.

    Returns:
        One picture; its columns are image, truth and prediction.
    """
    titles, gap, head = ("image", "truth", "prediction"), 8, 26
    pictures = []
    for image, *maps in rows:
        painted = (paint_overlay(image, labels, palette, 1.0) for labels in maps)
        pictures.append([_fit(Image.fromarray(picture), cell) for picture in (image, *painted)])
    heights = [max(picture.height for picture in row) + gap for row in pictures]
    sheet = Image.new("RGB", (3 * (cell + gap) + gap, head + sum(heights)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    for column, title in enumerate(titles):
        draw.text((gap + column * (cell + gap), 5), title, INK, font)
    top = head
    for row, height in zip(pictures, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (gap + column * (cell + gap), top))
        top += height
    return add_legend(np.asarray(sheet), names, palette)


def _fit(picture: Image.Image, side: int) -> Image.Image:
    ratio = side / max(picture.size)
    size = [max(1, round(length * ratio)) for length in picture.size]
    return picture.resize(
        size, Image.Resampling.NEAREST if ratio > 1 else Image.Resampling.BILINEAR
    )
