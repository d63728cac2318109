"""Which images the command line names."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from swin_backbone.media import IMAGE_SUFFIXES


def find_images(inputs: Iterable[str]) -> dict[Path, Path]:
    """Each image's path, and its path below the input that named it.

    Args:
        inputs: images, folders (searched through) and globs.

    Raises:
        FileNotFoundError: if an input names no image.
    """
    found: dict[Path, Path] = {}
    for entry in inputs:
        path = Path(entry)
        if path.is_file():
            images = {path: Path(path.name)}
        elif path.is_dir():
            images = {p: p.relative_to(path) for p in path.rglob("*") if _is_image(p)}
        else:
            matches = (Path(match) for match in glob.glob(entry, recursive=True))
            images = {p: Path(p.name) for p in matches if _is_image(p)}
        if not images:
            raise FileNotFoundError(f"input {entry!r} is no image, and no folder or glob of any")
        found |= dict(sorted(images.items()))
    return found


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES
