"""Look at a folder of one's own data, and write a config that trains on it.

    swin-backbone new mine.py --data FOLDER
    swin-backbone new mine.py --data FOLDER --task detection --model mask-rcnn-swin-small
    swin-backbone train mine.py

FOLDER holds images and label maps (img_dir/ and ann_dir/, images/ and masks/, train/ and
trainannot/, ..., with train and val in them or without), or images and JSON files in COCO's format.
Labels may be numbers, masks of 0 and 255, or colours; classes.txt, label_colors.txt or
class_dict.csv name the classes. Beside mine.py, mine.png shows a few samples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..atomic_files import write_text, write_whole
from ..images import read_image
from ..inference.visualization import paint_instances, paint_overlay
from ..inference.visualization.colours import distinct_colour
from ..own_data import coco, folders, report
from ..own_data.class_files import Classes, find_classes
from ..own_data.configs import detection_config, segmentation_config
from ..own_data.machine import machine_at_hand
from ..own_data.models import FAMILIES, model_names, model_of
from ..own_data.segmentation import LabelMaps, inspect_label_maps
from .commands import Parser, command

#: Label maps that are looked at, evenly spread.
MOST_LOOKED_AT = 2000
#: Samples on the picture.
SAMPLES = 4
#: A class with a smaller share of the pixels is hard to learn.
RARE = 1e-4
Colour = tuple[int, int, int]
console = Console(soft_wrap=True)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path, help="the config to write, .py")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--task", choices=list(FAMILIES), help="default: by what is found, label maps first"
    )
    parser.add_argument(
        "--model", help="as upernet-swin-tiny, fpn-swinv2-base, mask-rcnn-swin-small, retinanet-..."
    )
    parser.add_argument("--pretrained", help="the backbone's weights: path, address or hf-hub:NAME")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="names, by label")
    parser.add_argument("--force", action="store_true", help="replace a config that is there")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    path: Path = arguments.config
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"the config must have the name of a Python file, got {path.name!r}")
    if path.exists() and not arguments.force:
        raise FileExistsError(f"{path} is there; --force replaces it")
    if not arguments.data.is_dir():
        raise NotADirectoryError(f"--data {str(arguments.data)!r} is not a folder")
    task = arguments.task or find_task(arguments.data)
    arguments.model = arguments.model or model_names(task)[0]
    model_of(arguments.model, task)  # named before minutes of looking
    make = new_segmentation if task == "segmentation" else new_detection
    make(arguments)
    console.print(f"wrote {path} and {path.with_suffix('.png')}, for {arguments.model}")
    console.print(f"next: swin-backbone train {path}")


def find_task(data: Path) -> str:
    """``'segmentation'`` where there are label maps, else ``'detection'``."""
    if folders.has_label_maps(data):
        return "segmentation"
    if any(data.rglob("*.json")):
        return "detection"
    folders.find_splits(data)  # says what is missing
    raise AssertionError("data without label maps were taken for some")


def new_segmentation(arguments: argparse.Namespace) -> None:
    """Look at label maps, and write what trains on them.

    Raises:
        ValueError: naming what is wrong with the data.
    """
    data, path = arguments.data, arguments.config
    found = folders.find_splits(data)
    splits, lists = train_and_val(data, found, path)
    known = chosen_classes(arguments)
    pairs = list(chain.from_iterable(split.pairs(data) for split in splits.values()))
    looked_at = spread(pairs, MOST_LOOKED_AT)
    maps = inspect_label_maps(looked_at, *((known.colours, len(known.names)) if known else ()))
    names = class_names(maps, known)
    palette: list[Any] = [distinct_colour(index) for index in range(len(names))]
    if maps.kind == "colours":
        palette = list(maps.labels)
    if len(looked_at) < len(pairs):
        maps.notes.append(f"looked at {len(looked_at)} of {len(pairs)} images, evenly spread")
    maps.notes += class_notes(maps, names)
    text = segmentation_config(
        data, maps, names, palette, splits, lists, model_of(arguments.model, "segmentation"),
        machine_at_hand(), arguments.pretrained,
    )  # fmt: skip
    for split, file in lists.items():
        write_text(file, "".join(f"{name}\n" for name in splits[split].names))
    write_text(path, text)
    samples = painted_labels(spread(pairs, SAMPLES), maps, palette)
    write_whole(path.with_suffix(".png"), report.sheet(samples, names, palette).save)
    count = ", ".join(f"{len(split.names)} {name}" for name, split in splits.items())
    title = f"{data}: {count}; {report.describe_sizes(maps.sizes)}"
    console.print(report.segmentation_table(maps, names, title))
    say(maps.notes)


def train_and_val(
    data: Path, found: Mapping[str, folders.Split], path: Path
) -> tuple[dict[str, folders.Split], dict[str, Path]]:
    """The two splits that a config has, and the lists of images to write where there was one.

    Raises:
        ValueError: if there is nothing to train on.
    """
    train = found.get("train") or found.get("")
    if train is None:
        raise ValueError(f"{data} holds a split {' and '.join(found)}, and none to train on")
    if "val" in found:
        return {"train": train, "val": found["val"]}, {}
    splits = dict(zip(("train", "val"), folders.split_in_two(train), strict=True))
    base = path.resolve()
    return splits, {name: base.with_name(f"{path.stem}_{name}.txt") for name in splits}


def chosen_classes(arguments: argparse.Namespace) -> Classes | None:
    """The classes that the command line names, or else a file of the data."""
    if arguments.classes:
        if len(set(arguments.classes)) < len(arguments.classes):
            raise ValueError(f"--classes names one twice: {' '.join(arguments.classes)}")
        return Classes(tuple(arguments.classes), None, "--classes")
    return find_classes(arguments.data)


def class_names(maps: LabelMaps, known: Classes | None) -> list[str]:
    """A name for each class.

    Raises:
        ValueError: if there are more or fewer names than classes.
    """
    if known is None:
        return (
            ["background", "foreground"]
            if maps.is_mask
            else [f"class_{index}" for index in range(len(maps.labels))]
        )
    if len(known.names) != len(maps.labels):
        raise ValueError(
            f"{known.source} names {len(known.names)} classes, and the label maps hold "
            f"{len(maps.labels)}: {', '.join(map(str, maps.labels[:8]))}"
        )
    return list(known.names)


def class_notes(maps: LabelMaps, names: Sequence[str]) -> Iterator[str]:
    """Classes that are hard to learn."""
    whole = sum(maps.pixels)
    for name, pixels, images in zip(names, maps.pixels, maps.images, strict=True):
        if not pixels:
            yield f"no pixel is {name!r}"
        elif pixels < RARE * whole or images == 1:
            yield f"{name!r} is rare: {pixels} pixels in {images} images"


def painted_labels(
    pairs: Sequence[tuple[Path, Path]], maps: LabelMaps, palette: Sequence[Colour]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images, and their label maps over them as training will see them."""
    from ..openmmlab.label_loading import LoadMappedLabels

    labels: Any = maps.labels
    is_coloured = maps.kind == "colours"
    load = LoadMappedLabels(colours=labels) if is_coloured else LoadMappedLabels(values=labels)
    for image, label_map in pairs:
        pixels = read_image(image)
        classes = load({"seg_map_path": str(label_map)})["gt_seg_map"]
        yield pixels, paint_overlay(pixels, classes, palette)


def new_detection(arguments: argparse.Namespace) -> None:
    """Look at annotations, and write what trains on them.

    Raises:
        ValueError: naming what is wrong with the data.
    """
    data, path = arguments.data, arguments.config
    if arguments.classes:
        raise ValueError("--classes is for label maps; COCO's format names its classes itself")
    found = coco.find_coco_files(data)
    train = found.get("train") or found.get("")
    if train is None:
        raise ValueError(f"{data} holds a split {' and '.join(found)}, and none to train on")
    val = found.get("val", train)
    if val.classes != train.classes:
        raise ValueError(
            f"{train.path} and {val.path} have different categories: {train.classes[:5]} and "
            f"{val.classes[:5]}"
        )
    for one in (train, val):
        coco.check_image_sizes(one)
    model = model_of(arguments.model, "detection")
    has_masks = train.has_masks and val.has_masks
    if model.family == "mask-rcnn" and not has_masks:
        model = model_of(arguments.model.replace("mask", "faster", 1), "detection")
        arguments.model = model.name
    written = annotations_to_write(train, val)
    base = path.resolve()
    files = {"train": train.path.resolve(), "val": val.path.resolve()}
    files |= {name: base.with_name(f"{path.stem}_{name}.json") for name in written}
    splits = {"train": train, "val": val}
    counts = {
        name: len((written.get(name) or one.content)["images"]) for name, one in splits.items()
    }
    text = detection_config(
        data, splits, files, counts, model, machine_at_hand(), arguments.pretrained
    )
    for name, content in written.items():
        write_text(files[name], json.dumps(content))
    write_text(path, text)
    palette = [distinct_colour(index) for index in range(len(train.classes))]
    samples = painted_objects(train, palette)
    write_whole(path.with_suffix(".png"), report.sheet(samples, train.classes, palette).save)
    count = ", ".join(f"{number} {name}" for name, number in counts.items())
    both = [train] if val is train else [train, val]
    sizes = list(chain.from_iterable(one.sizes for one in both))
    title = f"{data}: {count}; {report.describe_sizes(sizes)}"
    console.print(report.detection_table(both, title))
    masks = "with masks" if has_masks else "boxes alone"
    say([f"median side of an object: {train.median_side:.0f} pixels; {masks}"])
    say(note for one in both for note in one.notes)


def annotations_to_write(train: coco.CocoFile, val: coco.CocoFile) -> dict[str, dict]:
    """Files of annotations that mmdet needs and the data do not have: both splits of one file, and
    objects as mmdet and the metric read them alike."""
    if val is train:
        parts = coco.split_in_two(coco.completed(train))
        if not all(part["annotations"] for part in parts):
            raise ValueError(f"{train.path} has too few images with objects to validate on some")
        return dict(zip(("train", "val"), parts, strict=True))
    made = {name: (one, coco.completed(one)) for name, one in (("train", train), ("val", val))}
    return {name: content for name, (one, content) in made.items() if content != one.content}


def painted_objects(
    one: coco.CocoFile, palette: Sequence[Colour]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images with objects, and their boxes over them."""
    classes = {entry["id"]: index for index, entry in enumerate(one.content["categories"])}
    objects: dict = {}
    for entry in coco.completed(one)["annotations"]:
        objects.setdefault(entry["image_id"], []).append(entry)
    images = [image for image in one.content["images"] if image["id"] in objects]
    for image in spread(images, SAMPLES):
        pixels = read_image(one.folder / image["file_name"])
        entries = objects[image["id"]]
        boxes = np.array([entry["bbox"] for entry in entries], dtype=float)
        boxes[:, 2:] += boxes[:, :2]
        colours = [palette[classes[entry["category_id"]]] for entry in entries]
        yield pixels, paint_instances(pixels, boxes, [""] * len(entries), colours)


def spread(values: Sequence, most: int) -> list:
    """At most so many of the values, evenly spread."""
    if len(values) <= most:
        return list(values)
    return [values[index * (len(values) - 1) // (most - 1)] for index in range(most)]


def say(notes) -> None:
    for note in notes:
        console.print(f"- {note}", markup=False, highlight=False)
