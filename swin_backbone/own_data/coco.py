"""Annotations in COCO's format: classes, objects and images, and what is wrong with them."""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .coco_objects import (
    check_object,
    completed_objects,
    is_empty,
    is_id,
    is_number,
    usable_mask,
)
from .folders import SPLITS
from .segmentation import image_size

#: Images whose headers are compared with what the annotations say.
MOST_CHECKED = 500
_PARTS = ("images", "annotations", "categories")
#: What an empty box is, for notes and errors.
EMPTY = "less than a pixel wide or high, or outside of their image"


@dataclass
class CocoFile:
    """One file of annotations.

    Attributes:
        path: of the file.
        folder: that its images' names begin at.
        split: ``'train'``, ``'val'``, ``'test'`` or ``''``.
        classes: names, in the file's order, which is how mmdet numbers them.
        objects: of each class.
        images: that hold each class.
        sides: square roots of the objects' areas, in pixels.
        sizes: (width, height) of each image.
        most: objects in one image.
        has_masks: whether all objects have masks that can be read.
        notes: what a reader should know.
        content: of the file.
    """

    path: Path
    folder: Path
    split: str
    classes: list[str]
    objects: list[int]
    images: list[int]
    sides: list[float]
    sizes: list[tuple[int, int]]
    most: int
    has_masks: bool
    notes: list[str] = field(default_factory=list)
    content: dict = field(default_factory=dict)

    @property
    def median_side(self) -> float:
        return statistics.median(self.sides)


def find_coco_files(root: Path) -> dict[str, CocoFile]:
    """Every file of annotations below a folder, looked at, by its split.

    Raises:
        ValueError: if there is none, two are of one split, or one makes no sense; it names the
            file.
    """
    found: dict[str, CocoFile] = {}
    broken: list[str] = []
    for path in sorted(root.rglob("*.json")):
        content = _read(path, broken)
        if content is None:
            continue
        coco = inspect_coco(root, path, content)
        if coco.split in found:
            other = found[coco.split].path.relative_to(root)
            raise ValueError(
                f"{root}: {other} and {path.relative_to(root)} are of the same split: which is "
                f"meant? Their names say it with train and val, or move the other away"
            )
        found[coco.split] = coco
    if not found:
        hint = f"; {broken[0]}" if broken else ""
        raise ValueError(
            f"{root} holds no JSON file in COCO's format (a dictionary with {', '.join(_PARTS)})"
            f"{hint}"
        )
    return found


def _read(path: Path, broken: list[str]) -> dict | None:
    """The content of a file in COCO's format; ``None`` of another."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        broken.append(f"{path} cannot be read: {error}")
        return None
    if not isinstance(content, dict):
        return None
    missing = [part for part in _PARTS if not isinstance(content.get(part), list)]
    if len(missing) == len(_PARTS):
        return None
    if missing:
        raise ValueError(f"{path} has no list of {' and of '.join(missing)}, as COCO's format does")
    return content


def inspect_coco(root: Path, path: Path, content: dict[str, Any]) -> CocoFile:
    """Look at the annotations of one file, and at the images that they name.

    Raises:
        ValueError: if they make no sense; it names the file, and the first entry that is wrong.
    """
    for part in ("images", "categories", "annotations"):
        if not content[part]:
            raise ValueError(f"{path} has no {part}")
    names = _categories(path, content["categories"])
    images = _images(path, content["images"])
    folder = _image_folder(root, path, [entry["file_name"] for entry in images.values()])
    objects: Counter = Counter()
    holders: Counter = Counter()
    per_image: Counter = Counter()
    sides, empty, crowds, ignored, without_mask, seen = [], 0, 0, 0, [], set()
    learned = 0
    for index, entry in enumerate(content["annotations"]):
        known = entry.get("id", index) if isinstance(entry, dict) else index
        check_object(entry, f"{path}: annotation {known}", names, images)
        box, name, image = entry["bbox"], names[entry["category_id"]], entry["image_id"]
        if is_empty(entry, images[image]):
            empty += 1
            continue
        crowds += bool(entry.get("iscrowd"))
        ignored += bool(entry.get("ignore"))
        learned += not (entry.get("iscrowd") or entry.get("ignore"))
        if usable_mask(entry, images[image]) is None:
            without_mask.append(known)
        objects[name] += 1
        per_image[image] += 1
        sides.append((box[2] * box[3]) ** 0.5)
        if (name, image) not in seen:
            seen.add((name, image))
            holders[name] += 1
    if not sides:
        raise ValueError(f"{path}: all {empty} boxes are empty: {EMPTY}")
    if not learned:
        raise ValueError(f"{path}: all {len(sides)} objects are crowds or to be ignored")
    classes = list(names.values())
    coco = CocoFile(
        path, folder, _split(root, path), classes, [objects[name] for name in classes],
        [holders[name] for name in classes], sides,
        [(entry["width"], entry["height"]) for entry in images.values()],
        max(per_image.values()), not without_mask, content=content,
    )  # fmt: skip
    unused = [name for name in classes if not objects[name]]
    for count, text in (
        (len(images) - len(per_image), "images without an object"),
        (empty, f"empty boxes, which are left out: {EMPTY}"),
        (crowds, "crowds, which are left out of training"),
        (ignored, "objects that say ignore, which are left out of training"),
        (len(unused), f"classes without an object: {', '.join(unused[:6])}"),
        (
            len(without_mask),
            "objects without a mask that can be read, the first is annotation "
            f"{without_mask[0] if without_mask else None}: boxes alone are used",
        ),
    ):
        if count:
            coco.notes.append(f"{path.name}: {count} {text}")
    return coco


def _categories(path: Path, entries: list) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        known = isinstance(entry, dict) and is_id(entry.get("id"))
        if not (known and isinstance(entry.get("name"), str)):
            raise ValueError(f"{path}: category {index} must have an id and a name, got {entry}")
        if entry["id"] in names or entry["name"] in names.values():
            raise ValueError(f"{path}: category {entry['id']}, {entry['name']!r}, is there twice")
        names[entry["id"]] = entry["name"]
    return names


def _images(path: Path, entries: list) -> dict[Any, dict]:
    images: dict[Any, dict] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: image {index} must be a dictionary, got {entry!r}")
        missing = {"id", "file_name", "width", "height"} - set(entry)
        if missing:
            raise ValueError(f"{path}: image {index} has no {' and no '.join(sorted(missing))}")
        if not (is_id(entry["id"]) and isinstance(entry["file_name"], str)):
            raise ValueError(
                f"{path}: image {index} must have an id, and a file_name of text, got "
                f"{entry['id']!r} and {entry['file_name']!r}"
            )
        for name in ("width", "height"):
            if not (is_number(entry[name]) and entry[name] > 0):
                raise ValueError(
                    f"{path}: image {index} must have a {name} in pixels, got {entry[name]!r}"
                )
        if entry["id"] in images:
            raise ValueError(f"{path}: there are two images with id {entry['id']}")
        images[entry["id"]] = entry
    return images


def _image_folder(root: Path, path: Path, names: list[str]) -> Path:
    """The folder below which all images lie.

    Raises:
        ValueError: if there is none, or an image is not there, not readable, or of another size.
    """
    first = Path(names[0])
    folders = [Path(folder) for folder, _, files in os.walk(root) if first.name in files]
    for _ in first.parts[:-1]:
        folders = [folder.parent for folder in folders]
    folders = [folder for folder in folders if (folder / first).is_file()]
    if not folders:
        raise ValueError(f"{path}: the image {names[0]} is nowhere below {root}")
    split = _split(root, path)
    folder = max(folders, key=lambda one: (split in one.parts, -len(one.parts)))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(names)} images are not in {folder}, the first is "
            f"{missing[0]}"
        )
    return folder


def check_image_sizes(coco: CocoFile) -> None:
    """Compare the first images' headers with what the annotations say.

    Raises:
        ValueError: if an image cannot be read, or has another size.
    """
    for entry in coco.content["images"][:MOST_CHECKED]:
        size = image_size(coco.folder / entry["file_name"])
        if size != (entry["width"], entry["height"]):
            raise ValueError(
                f"{coco.path}: image {entry['file_name']} is said to have "
                f"{entry['width']}x{entry['height']} pixels, and has {size[0]}x{size[1]}"
            )


def completed(coco: CocoFile) -> dict:
    """The file's content with its objects as :func:`completed_objects` leaves them."""
    images = {entry["id"]: entry for entry in coco.content["images"]}
    return {**coco.content, "annotations": completed_objects(coco.content["annotations"], images)}


def split_in_two(content: dict, every: int = 5) -> tuple[dict, dict]:
    """To train on, and to validate on: each ``every``-th image, in the order of their names."""
    images = sorted(content["images"], key=lambda entry: entry["file_name"])
    parts = []
    for chosen in (
        [image for index, image in enumerate(images) if index % every != every - 1],
        images[every - 1 :: every],
    ):
        ids = {image["id"] for image in chosen}
        objects = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        parts.append({**content, "images": chosen, "annotations": objects})
    return parts[0], parts[1]


def _split(root: Path, path: Path) -> str:
    words = path.relative_to(root).with_suffix("").as_posix().lower()
    for mark in "/-.0123456789":
        words = words.replace(mark, "_")
    return next((SPLITS[word] for word in reversed(words.split("_")) if word in SPLITS), "")
