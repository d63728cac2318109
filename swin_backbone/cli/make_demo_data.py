"""Make a small data set of generated scenes, to try training and evaluation on.

    swin-backbone make-demo-data data/demo

A scene has sky and ground, and shapes of four kinds that hide each other. The classes' colours
overlap, so that outline and texture have to be seen. Light changes over each image, and noise
lies on it. The images have many sizes; they are OUT/img_dir/{train,val}/NAME.jpg, with labels in
OUT/ann_dir/{train,val}/NAME.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from ..atomic_files import write_folder
from .argument_types import positive
from .argument_types import seed as seed_type
from .commands import Parser, command

#: Class names and the colours in which labels are shown; the index is the label.
CLASSES = {
    "ground": (140, 110, 80),
    "sky": (135, 190, 235),
    "disc": (230, 75, 60),
    "box": (60, 180, 75),
    "triangle": (255, 205, 50),
    "striped": (150, 80, 200),
}
GROUND, SKY, DISC, BOX, TRIANGLE, STRIPED = range(len(CLASSES))

#: Hues that a class can have, in degrees. They overlap: colour helps, but does not tell.
HUES = {
    GROUND: (10, 130),
    SKY: (180, 260),
    DISC: (-100, 40),
    BOX: (80, 220),
    TRIANGLE: (0, 140),
    STRIPED: (170, 310),
}

#: Shortest and longest side of an image, in pixels.
SIDES = (72, 240)
#: Smallest and largest radius of a shape, in pixels.
RADII = (19, 40)

#: Written last: a folder that has it is whole.
INFO = "info.json"


def make_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Returns:
        Image (H, W, 3) uint8 RGB and label (H, W) uint8.
    """
    height, width = rng.integers(SIDES[0], SIDES[1] + 1, 2)
    image, label = _landscape(rng, height, width)
    for _ in range(max(2, round(height * width / 4800 * rng.uniform(0.7, 1.4)))):
        _add_shape(rng, image, label)
    return _photograph(rng, image), label


def _landscape(rng, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth sky over rough ground, with a wavy horizon."""
    rows = np.arange(height)[:, None]
    horizon = height * (rng.uniform(0.3, 0.55) + 0.1 * _waves(rng, np.linspace(0, 4, width)))
    label = np.where(rows < horizon, SKY, GROUND).astype(np.uint8)

    sky = (
        _hsv(rng, HUES[SKY], (0.1, 0.7), (0.5, 0.95))
        + 50 * (rows / height)[..., None]
        + 15 * _clouds(rng, height, width, cell=32)
    )
    grain = 22 * _clouds(rng, height, width, cell=2) + 10 * _clouds(rng, height, width, cell=6)
    ground = _hsv(rng, HUES[GROUND], (0.1, 0.7), (0.25, 0.8)) + grain
    return np.where((label == SKY)[..., None], sky, ground), label


def _add_shape(rng, image: np.ndarray, label: np.ndarray) -> None:
    """Paint one shape over image and label, in place."""
    height, width = label.shape
    kind = rng.integers(DISC, STRIPED + 1)
    centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(*RADII)
    y, x = np.mgrid[:height, :width]
    # Coordinates in the shape's own frame, in pixels.
    u = (x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)
    v = (y - centre_y) * np.cos(angle) - (x - centre_x) * np.sin(angle)
    inside = OUTLINES[kind](rng, u / radius, v / radius)
    if not inside.any():
        return
    colour = _contrasting_colour(rng, kind, image[inside].mean(axis=0))
    second = _contrasting_colour(rng, kind, colour)
    amount = SURFACES[kind](rng, u, v)[..., None]
    paint = colour + amount * (second - colour)
    image[inside] = paint[inside]
    label[inside] = kind


# Outlines: whether (u, v), in units of the radius, lies in the shape.


def _disc(rng, u, v):
    return u**2 + (v / rng.uniform(0.75, 1)) ** 2 <= 1


def _box(rng, u, v):
    return (np.abs(u) <= 0.9) & (np.abs(v) <= rng.uniform(0.55, 0.9))


def _triangle(rng, u, v):
    # Three sides at the distance 0.6 from the centre, 120 degrees apart.
    normals = np.deg2rad([90, 210, 330])
    return np.all([u * np.cos(n) + v * np.sin(n) <= 0.6 for n in normals], axis=0)


def _blob(rng, u, v):
    return np.hypot(u, v) <= 0.9 + 0.2 * _waves(rng, np.arctan2(v, u) * 2)


# Surfaces: fraction of the second colour at (u, v), in pixels.


def _shaded(rng, u, v):
    return 0.2 * u / RADII[1]


def _checks(rng, u, v):
    period = rng.uniform(6, 8)
    return np.sin(2 * np.pi * u / period) * np.sin(2 * np.pi * v / period) > 0


def _dots(rng, u, v):
    period = rng.uniform(7, 9)
    return np.cos(2 * np.pi * u / period) + np.cos(2 * np.pi * v / period) > 0.7


def _stripes(rng, u, v):
    return np.sin(2 * np.pi * u / rng.uniform(10, 14)) > 0


OUTLINES: dict[int, Callable] = {DISC: _disc, BOX: _box, TRIANGLE: _triangle, STRIPED: _blob}
SURFACES: dict[int, Callable] = {DISC: _dots, BOX: _checks, TRIANGLE: _shaded, STRIPED: _stripes}


def _photograph(rng, scene: np.ndarray) -> np.ndarray:
    """Uneven light, exposure, a soft lens and the noise of a sensor."""
    height, width = scene.shape[:2]
    light = rng.uniform(0.6, 1.2) * (1 + 0.2 * _clouds(rng, height, width, cell=64))
    image = cv2.GaussianBlur(scene * light, None, rng.uniform(0.3, 0.7))
    image = image + rng.normal(0, rng.uniform(2, 9), image.shape)
    return image.clip(0, 255).astype(np.uint8)


def _hsv(rng, *ranges) -> np.ndarray:
    """A random RGB colour, each of hue (degrees), saturation and value from its range."""
    colour = np.float32([[[rng.uniform(*bounds) for bounds in ranges]]])
    colour[..., 0] %= 360
    return 255 * cv2.cvtColor(colour, cv2.COLOR_HSV2RGB)[0, 0]


def _contrasting_colour(rng, kind: int, other: np.ndarray) -> np.ndarray:
    """A random colour for a kind of shape that can be told from another colour."""
    while True:
        colour = _hsv(rng, HUES[kind], (0.2, 1.0), (0.3, 1.0))
        if np.linalg.norm(colour - other) > 100:
            return colour


def _clouds(rng, height: int, width: int, cell: int) -> np.ndarray:
    """(H, W, 1) smooth noise of unit variance in its corners, which lie ``cell`` pixels apart."""
    coarse = rng.normal(size=(height // cell + 2, width // cell + 2)).astype(np.float32)
    return cv2.resize(coarse, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)[..., None]


def _waves(rng, t: np.ndarray) -> np.ndarray:
    """A smooth random function of t with period 2 pi and values in [-1, 1]."""
    phases = rng.uniform(0, 2 * np.pi, 3)
    return sum(np.sin(k * t + p) for k, p in zip((1, 2, 3), phases, strict=True)) / 3


def make_data_set(out: Path, train: int = 280, val: int = 50, seed: int = 0) -> bool:
    """Make the scenes of both splits, the same for the same arguments.

    The images are made in a folder beside ``out`` that takes its name at the end, so a run
    that breaks leaves no half data set.

    Args:
        out: folder to make.
        train: number of training images.
        val: number of validation images.
        seed: seed of the random numbers.

    Returns:
        Whether anything had to be made: ``False`` if ``out`` was made with these arguments.

    Raises:
        ValueError: if a split would be empty, or the seed is negative.
        FileExistsError: if ``out`` holds something else.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}")
    info = {"train": train, "val": val, "seed": seed, "classes": list(CLASSES)}
    if out.exists():
        found = out / INFO
        if found.is_file() and json.loads(found.read_text()) == info:
            return False
        raise FileExistsError(
            f"{str(out)!r} exists and was not made with {info}; delete it or choose another folder"
        )

    def write(folder: Path) -> None:
        for split, (name, count) in enumerate((("train", train), ("val", val))):
            _write_split(folder, name, count, np.random.SeedSequence([seed, split]))
        (folder / INFO).write_text(json.dumps(info, indent=2) + "\n")

    write_folder(out, write)
    return True


def _write_split(root: Path, split: str, count: int, seeds: np.random.SeedSequence) -> None:
    images, labels = root / "img_dir" / split, root / "ann_dir" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    palette = [value for colour in CLASSES.values() for value in colour]
    for index, seed in enumerate(track(seeds.spawn(count), f"making {split:5}")):
        image, label = make_scene(np.random.default_rng(seed))
        Image.fromarray(image).save(images / f"{index:04}.jpg", quality=90, subsampling=0)
        indexed = Image.fromarray(label).convert("P")
        indexed.putpalette(palette)
        indexed.save(labels / f"{index:04}.png")


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--train", type=positive, default=280, help="training images (default 280)")
    parser.add_argument("--val", type=positive, default=50, help="validation images (default 50)")
    parser.add_argument(
        "--seed", type=seed_type, default=0, help="the same seed makes the same images"
    )
    args = parser.parse_args(argv)
    made = make_data_set(args.out, args.train, args.val, args.seed)
    print(f"{'made' if made else 'already there:'} {args.train} + {args.val} images in {args.out}")
    return 0
