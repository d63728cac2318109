"""Label maps: how they write classes, and how many pixels and images each class has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..images import UnreadableImageError
from ..label_maps import IGNORED, colour_codes, read_label_map

#: More colours in one label map are no palette.
MOST_COLOURS = 256
#: Orientations in which rows and columns change places.
_TURNED = (5, 6, 7, 8)
_ORIENTATION = 274


@dataclass
class LabelMaps:
    """What label maps hold.

    Attributes:
        kind: ``'indices'`` (labels from 0 without a gap), ``'values'`` (others, as 0 and 255), or
            ``'colours'``.
        labels: what stands for each class: values, or colours as (red, green, blue).
        pixels: of each class.
        images: that hold each class.
        ignored: pixels that belong to no class.
        sizes: (width, height) of each image.
        notes: what a reader should know.
        one_channel: whether all files have one; others are grey in three.
    """

    kind: str
    labels: list[int] | list[tuple[int, int, int]]
    pixels: list[int]
    images: list[int]
    ignored: int
    sizes: list[tuple[int, int]]
    notes: list[str] = field(default_factory=list)
    one_channel: bool = True

    @property
    def is_mask(self) -> bool:
        """Whether there is one class and what is not of it."""
        return len(self.labels) == 2 and self.labels in ([0, 255], [(0, 0, 0), (255, 255, 255)])


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image as it is shown, from its header.

    Raises:
        UnreadableImageError: if it is no image.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
            return image.size[::-1] if turned else image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableImageError(f"not a readable image: {error}", path) from error


def inspect_label_maps(
    pairs: Iterable[tuple[Path, Path]],
    colours: Sequence[tuple[int, int, int]] | None = None,
    num_classes: int | None = None,
) -> LabelMaps:
    """Look at every image and its label map.

    Args:
        pairs: their paths.
        colours: of the classes, if they are known; others are no class.
        num_classes: if it is known; greater labels are no class.

    Raises:
        ValueError: if a file cannot be read, sizes differ, or labels make no sense; it names the
            file.
    """
    pixels: Counter = Counter()
    images: Counter = Counter()
    sizes: list[tuple[int, int]] = []
    first: dict = {}
    one_channel = True
    coloured: list[Path] = []
    for image, label in pairs:
        values = read_label_map(label)
        size = image_size(image)
        if size != values.shape[1::-1]:
            rows, columns = values.shape[:2]
            raise ValueError(
                f"label map {label} has {columns}x{rows} pixels, and its image {size[0]}x{size[1]}"
            )
        sizes.append(size)
        one_channel = one_channel and _has_one_channel(label)
        codes = values
        if values.ndim == 3:
            coloured.append(label)
            codes = colour_codes(values)
        found, counts = np.unique(codes, return_counts=True)
        if values.ndim == 3 and len(found) > MOST_COLOURS:
            raise ValueError(
                f"label map {label} has 3 channels and {len(found)} colours, too many for classes: "
                f"it is a photograph, or was blurred by resizing or JPEG"
            )
        for value, count in zip(found.tolist(), counts.tolist(), strict=True):
            key = (value >> 16, value >> 8 & 255, value & 255) if values.ndim == 3 else value
            pixels[key] += count
            images[key] += 1
            first.setdefault(key, label)
    if coloured:  # black and white in maps without another colour are colours too
        for key in [key for key in pixels if isinstance(key, int)]:
            if key > 255:
                raise ValueError(f"label map {first[key]} has label {key}, and others have colours")
            for counter in (pixels, images):
                counter[key, key, key] += counter.pop(key)
            first.setdefault((key, key, key), first[key])
        return _coloured(pixels, images, sizes, colours)
    maps = _valued(pixels, images, sizes, first, num_classes)
    maps.one_channel = one_channel
    return maps


def _has_one_channel(path: Path) -> bool:
    with Image.open(path) as image:
        return len(image.getbands()) == 1


def _coloured(pixels, images, sizes, colours) -> LabelMaps:
    labels = list(colours) if colours is not None else sorted(pixels)
    if len(labels) > IGNORED:
        raise ValueError(
            f"the label maps have {len(labels)} colours, more than there may be classes"
        )
    others = [colour for colour in sorted(pixels) if colour not in labels]
    maps = _counted("colours", labels, pixels, images, sizes)
    maps.ignored = sum(pixels[colour] for colour in others)
    if others:
        listed = ", ".join(map(str, others[:4])) + (" ..." if len(others) > 4 else "")
        maps.notes.append(f"{len(others)} colours are no class, and are ignored: {listed}")
    return maps


def _valued(pixels, images, sizes, first, num_classes) -> LabelMaps:
    values = sorted(pixels)
    is_mask = values in ([0, IGNORED], [0], [IGNORED])
    own = values if is_mask else [value for value in values if value != IGNORED]
    if num_classes is not None and not is_mask:
        odd = [value for value in own if value >= num_classes]
        if odd:
            raise ValueError(
                f"label map {first[odd[0]]} has label {odd[0]}, and there are names for "
                f"{num_classes} classes, 0 to {num_classes - 1}; 255 stands for no class"
            )
        own = list(range(num_classes))
    if len(own) < 2:
        raise ValueError(f"the label maps hold one label, {own}: there is nothing to tell apart")
    if len(own) > IGNORED:
        raise ValueError(f"the label maps hold {len(own)} labels, more than there may be classes")
    is_plain = own == list(range(len(own)))
    maps = _counted("indices" if is_plain else "values", own, pixels, images, sizes)
    maps.ignored = 0 if is_mask else pixels[IGNORED]
    if is_mask:
        maps.notes.append("the label maps are masks of 0 and 255: background and foreground")
    elif not is_plain:
        maps.notes.append(f"the labels are not 0 to {len(own) - 1}: they are renumbered")
    return maps


def _counted(kind, labels, pixels, images, sizes) -> LabelMaps:
    counts = [pixels[label] for label in labels]
    return LabelMaps(kind, labels, counts, [images[label] for label in labels], 0, sizes)
