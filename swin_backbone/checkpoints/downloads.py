"""Fetch a file from an address once, whole or not at all, by one process while others wait."""

from __future__ import annotations

import hashlib
import http.client
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch
from filelock import FileLock

from ..atomic_files import write_whole
from .checkpoint_report import CheckpointError
from .unsupported_files import describe_unsupported_file

#: A name that ends so carries the beginning of its SHA-256, as torch's and OpenMMLab's do.
_HASH = re.compile(r"-([0-9a-f]{8,64})(\.[a-z0-9]+)+$")
_DATE = re.compile(r"(19|20)\d{6}")
_PIECE = 2**20
_TIMEOUT = 60  # seconds without a byte


def download(address: str) -> Path:
    """The local copy of what an address holds, fetched if it is not there.

    The copy's folder is named after the whole address, so that files of the same name at two
    addresses are two files. One process fetches while others that want the same file, of this
    program or another, wait for it; if it dies, another goes on.

    Args:
        address: an http(s) address.

    Raises:
        CheckpointError: if the address does not answer, breaks off, sends something that is no
            checkpoint, or content whose SHA-256 is not what the name says. Nothing is left behind.
        OSError: if the disk does not take the file.
    """
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    folder = Path(torch.hub.get_dir()) / "checkpoints" / digest
    path = folder / _name(address)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not path.exists():  # still, now that nobody else is at it
                write_whole(path, lambda unfinished: _fetch(address, path, unfinished))
    return path


def _name(address: str) -> str:
    """The last part of an address, as a file may be called."""
    last = unquote(urlsplit(address).path).rsplit("/", 1)[-1]
    return re.sub(r"[^\w.+-]", "_", last).lstrip(".")[-150:] or "checkpoint"


def _fetch(address: str, path: Path, unfinished: Path) -> None:
    digest, beginning = hashlib.sha256(), b""
    with unfinished.open("wb") as file:
        for piece in _pieces(address, path):
            beginning = beginning or piece[:512]
            digest.update(piece)
            file.write(piece)
    kind = describe_unsupported_file(beginning)
    if kind is not None:
        raise CheckpointError(f"what {address} sends is {kind}")
    _check_hash(address, path.name, digest.hexdigest())


def _pieces(address: str, path: Path) -> Iterator[bytes]:
    """The content, as it comes in."""
    request, done = Request(address, headers={"User-Agent": "swin_backbone"}), 0
    try:
        with urlopen(request, timeout=_TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
            size = f"{int(length) / 2**20:.1f} MiB" if length else "of unknown size"
            print(f"downloading {address} ({size}) to {path}", file=sys.stderr)
            while piece := answer.read(_PIECE):
                done += len(piece)
                yield piece
    except (
        URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
        ValueError,
    ) as error:
        raise CheckpointError(
            f"checkpoint {address!r} cannot be downloaded: {type(error).__name__}: {error}"
        ) from error
    if length and done != int(length):
        raise CheckpointError(
            f"checkpoint {address!r} cannot be downloaded: the connection broke off after {done} "
            f"of {length} bytes"
        )


def _check_hash(address: str, name: str, digest: str) -> None:
    found = _HASH.search(name)
    if found is None or _DATE.fullmatch(found[1]) or digest.startswith(found[1]):
        return
    raise CheckpointError(
        f"what {address} sends has the SHA-256 {digest[: len(found[1])]}..., and its name says "
        f"{found[1]}: it is damaged, or another file. If you trust it, download it yourself and "
        f"give its path"
    )
