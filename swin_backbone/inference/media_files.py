"""Which files are images, and which are videos, by their suffix; and finding them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Set
from pathlib import Path

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm"}


def find_files(
    inputs: Iterable[str], suffixes: Set[str] = frozenset(IMAGE_SUFFIXES)
) -> list[tuple[Path, Path]]:
    """Each file's path, and its path below the input that named it.

    Whatever is no folder is found, a broken link too: reading it says what is wrong.

    Args:
        inputs: files, folders (searched through), globs, and ``.txt`` lists with a path a line,
            relative to the working folder.
        suffixes: of the files that folders and globs stand for, in lower case.

    Raises:
        FileNotFoundError: if an input names no file.
    """
    found: list[tuple[Path, Path]] = []
    for entry in inputs:
        path = Path(entry)
        if path.suffix == ".txt" and os.path.isfile(path):
            files = [(listed, Path(listed.name or "unnamed")) for listed in _listed(path)]
        elif os.path.isdir(entry):
            inside = sorted(p for p in path.rglob("*") if _is_file(p, suffixes))
            files = [(p, p.relative_to(path)) for p in inside]
        elif os.path.lexists(entry):
            files = [(path, Path(path.name))]
        else:
            matches = sorted(map(Path, glob.glob(entry, recursive=True)))
            files = [(p, Path(p.name)) for p in matches if _is_file(p, suffixes)]
        if not files:
            raise FileNotFoundError(
                f"input {entry!r} is no image, and names no image, video, folder, glob or list"
            )
        found += files
    return found


def _listed(path: Path) -> list[Path]:
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    return [Path(os.fsdecode(line.strip())) for line in lines if line.strip()]


def _is_file(path: Path, suffixes: Set[str]) -> bool:
    return path.suffix.lower() in suffixes and not os.path.isdir(path)


def as_text(path: str | Path) -> str:
    r"""A file's name as text that can be stored: bytes that are not UTF-8 become ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def on_one_line(path: str | Path) -> str:
    """A file's name as it can be printed: characters that are not printable are escaped."""
    text = as_text(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
