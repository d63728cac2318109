"""Small segmentation data sets, generated, in the layout of mmseg's ``BaseSegDataset``."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ground", "box", "disc")
COLOURS = np.array([[120, 110, 90], [200, 60, 50], [60, 90, 200]])
SIZES = ((40, 56), (56, 40), (48, 48), (33, 61))


def draw_scene(rng, size):
    """One image (H, W, 3) and its labels (H, W), both uint8: a box and a disc on the ground."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, np.uint8)
    top, left = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
    labels[top : top + size[0] // 3, left : left + size[1] // 3] = 1
    centre = rng.uniform(0.3, 0.7, 2) * size
    radius = rng.uniform(0.15, 0.3) * min(size)
    labels[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = 2
    image = COLOURS[labels] + rng.normal(0, 12, (*size, 3))
    return image.clip(0, 255).astype(np.uint8), labels


def write_scenes(root, num_train=8, num_val=4, sizes=SIZES, seed=0):
    """Write ``img_dir/{train,val}/*.jpg`` and ``ann_dir/{train,val}/*.png``; returns the root."""
    rng = np.random.default_rng(seed)
    for split, number in (("train", num_train), ("val", num_val)):
        for index in range(number):
            image, labels = draw_scene(rng, sizes[index % len(sizes)])
            for kind, pixels in (("img_dir/{}/{}.jpg", image), ("ann_dir/{}/{}.png", labels)):
                path = Path(root) / kind.format(split, f"scene_{index}")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return Path(root)
