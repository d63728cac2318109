"""What tuning found, in a file that outlives the process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...atomic_files import write_text
from .launch import Config

try:
    import fcntl
except ImportError:  # not on Windows, where the last of two writers wins
    fcntl = None

logger = logging.getLogger(__name__)

#: Configurations by group of work, then by rows in powers of two.
Entries = dict[str, dict[int, Config]]


def default_path() -> Path:
    """Where the file lies (https://specifications.freedesktop.org/basedir-spec)."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "swin_backbone" / "kernels.json"


def digest_of_kernels() -> str:
    """Changes with the kernels' source."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parent / "kernels").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Memory:
    """Configurations that were found, in memory and in a file.

    Args:
        path: the file; it may hold what was found for other cards and versions too.
        key: card and versions.
        read: whether to begin with what the file holds.

    Attributes:
        entries: what is known for ``key``.
    """

    def __init__(self, path: Path, key: str, read: bool = True):
        self.path = path
        self.key = key
        self.entries: Entries = _decode(self._read().get(key, {})) if read else {}

    def remember(self, group: str, bucket: int, chosen: Config) -> None:
        """Add one configuration, to the file too if it can be written."""
        self.entries.setdefault(group, {})[bucket] = chosen
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(self.path.with_suffix(".lock")):
                content = self._read()  # others may have written since
                known = content.setdefault(self.key, {})
                known.setdefault(group, {})[str(bucket)] = chosen._asdict()
                write_text(self.path, json.dumps(content, indent=1, sort_keys=True))
        except OSError as error:
            logger.warning("what tuning found is not remembered in %s: %s", self.path, error)

    def _read(self) -> dict:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            for entries in content.values():
                _decode(entries)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read, kernels are tuned again: %s", self.path, error)
            return {}
        return content


def _decode(entries: dict) -> Entries:
    return {
        group: {int(bucket): Config(**chosen) for bucket, chosen in by_rows.items()}
        for group, by_rows in entries.items()
    }


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Wait until no other process is between reading and writing."""
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
