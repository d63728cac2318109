"""Which checkpoint a run goes on from, whatever a crash left of its pointer to the last one."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from ..checkpoints import CheckpointError

#: mmengine's file with the path of the last checkpoint, which it empties before it fills it.
POINTER = "last_checkpoint"
#: What a run needs to go on. What nobody named must have its optimizer too: best ones do not.
_NEEDED = ("state_dict", "meta")


def find_checkpoint_to_resume(
    work_dir: str | Path, out_dir: str | Path | None = None
) -> str | None:
    """The checkpoint that ``last_checkpoint`` names; if that is none, the newest whole one.

    mmengine's ``find_latest_checkpoint`` takes the pointer at its word: where it is missing or
    empty a run starts over, above the checkpoints that are there, and a broken file is an error.

    Args:
        work_dir: of the run.
        out_dir: the checkpoint hook's ``out_dir``, below which each run has a folder of its name.

    Returns:
        Its path or address (which is not looked into), or ``None`` if there is none at all.

    Raises:
        CheckpointError: if there are checkpoints, and not one of them is whole.
    """
    work_dir = Path(work_dir)
    folders = [work_dir]
    if out_dir is not None and "://" not in str(out_dir):
        folders.insert(0, Path(out_dir) / work_dir.resolve().name)
    pointer = work_dir / POINTER
    text = pointer.read_text(errors="replace").strip("\0 \r\n\t") if pointer.is_file() else ""
    if "://" in text:
        return text
    pointed = _find(text, work_dir)
    others = [path for folder in folders for path in folder.glob("*.pth") if path != pointed]
    candidates = [*([pointed] if pointed else []), *sorted(others, key=_age, reverse=True)]
    broken = []
    for path in candidates:
        problem = _why_not(path, _NEEDED if path == pointed else (*_NEEDED, "optimizer"))
        if problem is None:
            if path != pointed or broken:
                print_log(
                    f"{pointer} names no whole checkpoint; going on from {path}",
                    logger="current",
                    level=logging.WARNING,
                )
            return str(path)
        broken.append(f"{path}: {problem}")
    if broken:
        raise CheckpointError(
            f"no checkpoint in {work_dir} can be resumed from: {'; '.join(broken)}"
        )
    return None


def _find(name: str, work_dir: Path) -> Path | None:
    """What the pointer names, if it names anything; a moved work dir's file by its name."""
    if not name:
        return None
    path = Path(name)
    return path if path.exists() else work_dir / path.name


def _age(path: Path) -> tuple[int, float]:
    """Grows with a checkpoint's step, which its name ends with, or else with its time."""
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else -1, path.stat().st_mtime


def _why_not(path: Path, needed: tuple[str, ...]) -> str | None:
    """Why a run cannot go on from a checkpoint, or ``None``."""
    if path.is_dir():  # DeepSpeed's, which only DeepSpeed can look into
        return None
    try:
        content = CheckpointLoader.load_checkpoint(str(path), map_location="cpu")
    except (CheckpointError, OSError) as error:
        return str(error)
    if not isinstance(content, Mapping):
        return "it holds no checkpoint"
    missing = [name for name in needed if name not in content]
    return f"it has no {', '.join(missing)}" if missing else None
