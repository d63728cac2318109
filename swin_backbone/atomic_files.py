"""Files that are whole or not there: the one way in which this project writes.

A file is written under another name beside its own, flushed to the disk, and renamed. Whoever reads
sees the old file or the new one, whenever the process is killed, the disk is full, or the machine
stops. What an error leaves is removed at once, what a kill leaves when next a file of that folder
is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

#: Name of an unfinished file: digests of the target's name and of the machine, process, number.
#: It does not grow with the target's name, which may be as long as the file system allows.
_UNFINISHED = re.compile(r"\.[0-9a-f]{8}-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-\d+\.unfinished.*")
_LONGEST_SUFFIX = 20
#: Seconds without a change after which an unfinished file of another machine counts as left over.
_ABANDONED = 24 * 3600

_numbers = itertools.count()
_tidied: set[tuple[int, str]] = set()


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file that is whole or not there.

    A link is followed, an existing file's permissions stay. What is no regular file (``/dev/null``,
    a pipe) is written to as it is.

    Args:
        path: the file; its folder is made if it is not there.
        write: is given the path to write to, in the same folder and with the same suffix.

    Raises:
        IsADirectoryError: if there is a folder of that name.
        OSError: if the file cannot be written; what was there is still there then.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, so no file can be written there")
    if path.exists() and not path.is_file():
        write(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy_once(path.parent)
    unfinished = path.with_name(unfinished_name(path))
    try:
        write(unfinished)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        if path.exists():  # only now: it may be one that nobody may write to
            shutil.copymode(path, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    _flush_folder(path.parent)


def write_folder(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a folder that is whole or not there.

    Args:
        path: the folder, which must not be there yet.
        write: is given a folder beside it, which is there and empty, to write to.

    Raises:
        FileExistsError: if there is something of that name.
        OSError: if something cannot be written.
    """
    path = Path(os.path.realpath(path))
    if path.exists():
        raise FileExistsError(f"{path} is there already")
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy_once(path.parent)
    unfinished = path.with_name(unfinished_name(path))
    unfinished.mkdir()
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _flush_folder(path.parent)


def write_bytes(path: str | Path, content: bytes) -> None:
    """:func:`write_whole` of bytes."""
    write_whole(path, lambda unfinished: unfinished.write_bytes(content))


def write_text(path: str | Path, content: str, encoding: str = "utf-8") -> None:
    """:func:`write_whole` of text."""
    write_bytes(path, content.encode(encoding))


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed processes left unfinished in a folder, and nothing that is being written.

    A process of this machine is asked for by its number; what another machine left goes when it has
    not changed for a day.
    """
    with os.scandir(folder) as entries:
        left = [entry for entry in entries if _is_left_over(entry)]
    for entry in left:  # another process may tidy up too
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


def _tidy_once(folder: Path) -> None:
    """Once a process: a folder of many thousand files is not listed for each of them."""
    key = (os.getpid(), str(folder))
    if key not in _tidied:
        _tidied.add(key)
        remove_leftovers(folder)


def unfinished_name(path: Path) -> str:
    suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
    name = f".{_digest(path.name)}-{machine()}-{os.getpid()}-{next(_numbers)}"
    return f"{name}.unfinished{suffix}"


def _is_left_over(entry: os.DirEntry) -> bool:
    match = _UNFINISHED.fullmatch(entry.name)
    if match is None:
        return False
    if match["machine"] == machine() and os.name == "posix":
        return not _is_running(int(match["pid"]))
    try:
        return time.time() - entry.stat().st_mtime > _ABANDONED
    except FileNotFoundError:
        return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's; no number of a process
        return True
    return True


def machine() -> str:
    """Where process numbers mean the same: a host, and on Linux a container of it."""
    namespace = ""
    with contextlib.suppress(OSError):  # only Linux has it
        namespace = os.readlink("/proc/self/ns/pid")
    return _digest(f"{socket.gethostname()} {namespace}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _flush_folder(folder: Path) -> None:
    """Make the new name last; where the system cannot, the file is whole under one of its names."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems do not flush folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
