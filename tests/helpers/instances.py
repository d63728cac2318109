"""Small detection data sets, generated, in COCO's format."""

import json
from pathlib import Path

import cv2
import numpy as np


def draw_instances(rng, size, count=3):
    """An image (H, W, 3) uint8 of bright rectangles on noise, and their boxes (x, y, w, h)."""
    image = rng.integers(0, 90, (*size, 3), dtype=np.uint8)
    boxes = []
    for _ in range(count):
        height, width = rng.integers(10, max(size[0] // 2, 11)), rng.integers(10, size[1] // 2)
        y, x = rng.integers(0, size[0] - height), rng.integers(0, size[1] - width)
        image[y : y + height, x : x + width] = rng.integers(120, 256, 3)
        boxes.append([int(v) for v in (x, y, width, height)])
    return image, boxes


def write_coco(folder, annotation_file, sizes, classes, seed=0):
    """Write images of ``sizes`` (rows, columns) to ``folder`` and their instances to a file.

    Every category of ``classes`` is listed; the instances take turns in them.
    """
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for index, size in enumerate(sizes):
        image, boxes = draw_instances(rng, size)
        name = f"{index:012d}.jpg"
        Path(folder).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(Path(folder, name)), image)
        images.append({"id": index, "file_name": name, "height": size[0], "width": size[1]})
        for x, y, width, height in boxes:
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": 1 + len(annotations) % len(classes),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
            )
    categories = [{"id": 1 + index, "name": name} for index, name in enumerate(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    Path(annotation_file).parent.mkdir(parents=True, exist_ok=True)
    Path(annotation_file).write_text(json.dumps(content))
