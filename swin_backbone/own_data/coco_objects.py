"""Objects of a file in COCO's format, as mmdet and COCO's metric read them alike.

mmdet leaves out what has no area or is less than a pixel wide, without a word, and the metric
counts it all the same; objects with ids below 1 are never found by the metric, and those that
share an id are read as one. So what is left out is decided here, for both, and what they need is
made good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeGuard

#: Numbers of a polygon with three corners.
LEAST_CORNERS = 6


def check_object(entry: object, where: str, names: dict, images: dict) -> None:
    """Raise ``ValueError``, which begins with ``where``, unless an annotation is an object of a
    known category, with a box, in a known image."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be a dictionary, got {entry!r}")
    category, image = entry.get("category_id"), entry.get("image_id")
    if not is_id(category) or category not in names:
        raise ValueError(
            f"{where} has category_id {category}, which is none of the categories "
            f"{sorted(names, key=lambda one: (str(type(one)), one))}"
        )
    if not is_id(image) or image not in images:
        raise ValueError(f"{where} is of image {image}, which is not listed")
    box = entry.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        raise ValueError(f"{where} must have a bbox [x, y, width, height], got {box}")


def is_id(value: object) -> bool:
    """Whether a value of JSON can be looked up: a number or text."""
    return isinstance(value, (int, float, str))


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of JSON is a number that is finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_empty(entry: dict, image: dict) -> bool:
    """Whether mmdet leaves a box out: less than a pixel wide or high, or outside of its image."""
    x, y, width, height = entry["bbox"]
    inside = x < image["width"] and y < image["height"] and x + width > 0 and y + height > 0
    return width < 1 or height < 1 or not inside


def usable_mask(entry: dict, image: dict) -> list | dict | None:
    """The mask of an object without polygons of fewer than three corners; ``None`` if no mask is
    left, or it is not that of COCO's format."""
    mask = entry.get("segmentation")
    if isinstance(mask, dict):
        size = [image["height"], image["width"]]
        whole = isinstance(mask.get("counts"), (list, str)) and mask.get("size") == size
        return mask if whole else None
    if not isinstance(mask, list):
        return None
    return [polygon for polygon in mask if _is_polygon(polygon)] or None


def _is_polygon(polygon: object) -> bool:
    if not (isinstance(polygon, list) and all(map(is_number, polygon))):
        return False
    return len(polygon) >= LEAST_CORNERS and len(polygon) % 2 == 0


def completed_objects(entries: Iterable[dict], images: dict) -> list[dict]:
    """Objects with what mmdet and the metric need of each: id, area, iscrowd; without empty boxes.

    Args:
        entries: annotations that :func:`check_object` takes.
        images: by their ids.
    """
    kept = [entry for entry in entries if not is_empty(entry, images[entry["image_id"]])]
    ids = [entry.get("id") for entry in kept]
    sound = all(isinstance(one, int) and one > 0 for one in ids) and len(set(ids)) == len(ids)
    objects = []
    for number, entry in enumerate(kept, 1):
        area, (_, _, width, height) = entry.get("area"), entry["bbox"]
        made = {
            "area": area if is_number(area) and area > 0 else width * height,
            "iscrowd": int(bool(entry.get("iscrowd"))),
        }
        mask = usable_mask(entry, images[entry["image_id"]])
        if mask is not None:
            made["segmentation"] = mask
        objects.append({**entry, **made} if sound else {**entry, **made, "id": number})
    return objects
