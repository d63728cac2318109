"""Where images and label maps lie in a folder, and which belong together."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..inference.media_files import IMAGE_SUFFIXES

#: Words in folders' names for a part of the data.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
#: Words in folders' names for label maps; other folders hold images.
LABELS = re.compile(
    r"ann|annot|anns|annots|annotation|annotations|gt|groundtruth|label|labels|mask|masks|"
    r"segmentation|segmentationclass|segmentations|target|targets|labelids|seg|segs"
)
#: What joins words in a folder's name, and generic words in it.
_BETWEEN = re.compile(r"[^a-z]+|dir|png|raw")
LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


class Split(NamedTuple):
    """Images with their label maps.

    Attributes:
        images: folder of the images, relative to the data's.
        labels: folder of the label maps.
        names: of each image, its path below ``images``, without ``image_suffix``.
        image_suffix: end of the names of images.
        label_suffix: end of the names of label maps.
    """

    images: str
    labels: str
    names: tuple[str, ...]
    image_suffix: str
    label_suffix: str

    def pairs(self, root: Path) -> Iterator[tuple[Path, Path]]:
        """Paths of each image and its label map."""
        for name in self.names:
            image = root / self.images / f"{name}{self.image_suffix}"
            yield image, root / self.labels / f"{name}{self.label_suffix}"


def find_splits(root: Path) -> dict[str, Split]:
    """Images and label maps below a folder, by their split.

    Folders are known by their names: ``img_dir/train`` and ``ann_dir/train``, ``images`` and
    ``masks``, ``train`` and ``trainannot``, and the like. A label map is called as its image is, or
    with one ending for all behind that (``7.jpg``, ``7_mask.png``).

    Returns:
        By ``'train'``, ``'val'`` or ``'test'``; by ``''`` where folders name no split.

    Raises:
        ValueError: if there are no images, no label maps, or images without label maps.
    """
    found: dict[tuple[str, bool], dict[str, list[str]]] = {}
    for file in _image_files(root):
        prefix, split, is_label = _role(file.parent.parts)
        below = file.relative_to(prefix).as_posix() if prefix else file.as_posix()
        found.setdefault((split, is_label), {}).setdefault(prefix, []).append(below)
    if not found:
        raise ValueError(f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if not any(is_label for _, is_label in found):
        raise ValueError(
            f"{root} holds images, but no folder of label maps, as img_dir/ and ann_dir/, images/ "
            f"and masks/, train/ and trainannot/"
        )
    splits = {}
    for split in sorted({split for split, is_label in found if not is_label}):
        folders = found[split, False]
        if (split, True) not in found:
            if split == "test":  # may well have no labels
                continue
            listed = ", ".join(name or "." for name in sorted(folders))
            raise ValueError(f"{root}: there are no label maps for the images in {listed}")
        splits[split] = _pair(root, _only(root, folders), _only(root, found[split, True]))
    if not splits:
        raise ValueError(f"{root} holds label maps, but no images beside them")
    return splits


def has_label_maps(root: Path) -> bool:
    """Whether a folder below this one is called as those of label maps are, and holds images."""
    return any(_role(file.parent.parts)[2] for file in _image_files(root))


def split_in_two(split: Split, every: int = 5) -> tuple[Split, Split]:
    """To train on, and to validate on: each ``every``-th image.

    Raises:
        ValueError: if there are not two images.
    """
    if len(split.names) < 2:
        raise ValueError(f"{split.images or '.'} holds one image, and validation needs another")
    every = min(every, len(split.names))
    kept = tuple(n for index, n in enumerate(split.names) if index % every != every - 1)
    return split._replace(names=kept), split._replace(names=split.names[every - 1 :: every])


def _image_files(root: Path) -> Iterator[Path]:
    """Files that are called as images are, relative to the folder, sorted."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield (Path(folder) / name).relative_to(root)


def _role(parts: tuple[str, ...]) -> tuple[str, str, bool]:
    """The folder up to the last telling name, the split, and whether it is one of labels."""
    split, is_label, end = "", False, 0
    for index, part in enumerate(parts):
        words = [word for word in _BETWEEN.split(part.lower()) if word]
        joined = re.fullmatch(r"(train|val|test)(\w+)", words[0]) if len(words) == 1 else None
        if joined and LABELS.fullmatch(joined[2]):  # trainannot
            words = [joined[1], joined[2]]
        for word in words:
            telling = word in SPLITS or LABELS.fullmatch(word) or word.startswith(("im", "jpeg"))
            if telling:
                end = index + 1
            split = SPLITS.get(word, split)
            is_label = is_label or bool(LABELS.fullmatch(word))
    return "/".join(parts[:end]), split, is_label


def _only(root: Path, folders: dict[str, list[str]]) -> tuple[str, list[str]]:
    if len(folders) > 1:
        listed = ", ".join(repr(name or ".") for name in sorted(folders))
        raise ValueError(f"{root}: which of these folders is meant: {listed}? Move the others away")
    return next(iter(folders.items()))


def _pair(root: Path, images: tuple[str, list[str]], labels: tuple[str, list[str]]) -> Split:
    """The images of one folder with the label maps of another."""
    image_folder, image_files = images
    label_folder, label_files = labels
    image_suffix = _one_suffix(root / image_folder, image_files)
    label_type = _one_suffix(root / label_folder, label_files)
    if label_type.lower() not in LOSSLESS:
        raise ValueError(
            f"label maps must be of a kind that keeps values ({', '.join(LOSSLESS)}), and "
            f"{root / label_folder} holds {label_type}"
        )
    names = [name.removesuffix(image_suffix) for name in image_files]
    stems = {name.removesuffix(label_type) for name in label_files}
    ending = _common_ending(names, stems)
    missing = [name for name in names if name + ending not in stems]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} images in {root / image_folder} have no label map in "
            f"{root / label_folder}, the first is {missing[0]}{image_suffix}"
        )
    return Split(image_folder, label_folder, tuple(names), image_suffix, ending + label_type)


def _one_suffix(folder: Path, files: list[str]) -> str:
    counts = Counter(Path(name).suffix for name in files)
    if len(counts) > 1:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
        raise ValueError(f"{folder} must hold files of one suffix, and holds {listed}")
    return next(iter(counts))


def _common_ending(names: list[str], stems: set[str]) -> str:
    """What follows an image's name in that of its label map, in most cases nothing."""
    if any(name in stems for name in names):
        return ""
    known = sorted(stems)
    endings = Counter(
        stem.removeprefix(name) for name in names[:20] for stem in known if stem.startswith(name)
    )
    return endings.most_common(1)[0][0] if endings else ""
