"""Read PyTorch's files: zip archives, the format before them, bare pickles, and safetensors.

Every size that a file claims is compared with what the file has, before memory is taken for it.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import torch

from .placeholders import STAND_INS, Storage, StorageKind, Tensors, native, refuse_odd_booleans
from .safe_pickle import Reader, UnsafePickleError, shown

MAGIC = 0x1950A86A20F9469CFC6C  # of files before zip archives
VERSION = 1001
_PIECE = 16 * 2**20
#: A function of a storage on the CPU and the name of the device it came from.
Mover = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


def mover(map_location) -> Mover:
    """Where tensors go, as :func:`torch.load` understands ``map_location``."""
    restore = torch.serialization.default_restore_location
    if map_location is None:
        return restore
    if isinstance(map_location, dict):
        return lambda storage, location: restore(storage, map_location.get(location, location))
    if isinstance(map_location, str | bytes | torch.device):
        place = map_location.decode() if isinstance(map_location, bytes) else str(map_location)
        return lambda storage, location: restore(storage, place)
    if not callable(map_location):
        raise TypeError(f"map_location must be as torch.load takes it, got {map_location!r}")

    def move(storage, location):
        moved = map_location(storage, location)
        if moved is None:
            return restore(storage, location)
        return moved.untyped() if isinstance(moved, torch.TypedStorage) else moved

    return move


class _Storages:
    """The storages of one file, each read once."""

    def __init__(self, tensors: Tensors, move: Mover, read: Callable):
        self.tensors, self.move, self.read = tensors, move, read
        self.loaded: dict[str, torch.UntypedStorage] = {}
        self.typed: dict[tuple[str, torch.dtype], Storage] = {}

    def __call__(self, identity) -> Storage:
        """The storage of a persistent id: its dtype, key, device and number of elements."""
        if not isinstance(identity, tuple) or len(identity) not in (5, 6):
            raise UnsafePickleError("a persistent id that is not a storage's")
        what, kind, key, location, count = (_text(part) for part in identity[:5])
        if what != "storage" or not isinstance(kind, StorageKind) or any(identity[5:]):
            raise UnsafePickleError("a persistent id that is not a storage's")
        if not isinstance(key, str) or not isinstance(location, str):
            raise UnsafePickleError("a storage without a name")
        if type(count) is not int or count < 0:
            raise UnsafePickleError(f"a storage of {shown(count)} elements")
        if key not in self.loaded:
            content = self.read(key, count * kind.dtype.itemsize, kind.dtype)
            self.tensors.stored += content.nbytes()
            self.loaded[key] = self.move(content, location)
        if count * kind.dtype.itemsize > self.loaded[key].nbytes():
            raise UnsafePickleError(f"storage {shown(key)} has fewer than {count} elements")
        return self.typed.setdefault((key, kind.dtype), Storage(self.loaded[key], kind.dtype))


def _text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _fill(size: int, source: BinaryIO, what: str) -> torch.UntypedStorage:
    """A storage of the next bytes of a file, all of them."""
    content = torch.empty(size, dtype=torch.uint8, device="cpu")
    view, done = memoryview(content.numpy()), 0
    while done < size:
        piece = source.read(min(_PIECE, size - done))
        if not piece:
            raise UnsafePickleError(f"{what} ends after {done} of its {size} bytes")
        view[done : done + len(piece)] = piece
        done += len(piece)
    return content.untyped_storage()


def _swap(content: torch.UntypedStorage, dtype: torch.dtype) -> None:
    """Turn the order of bytes of a machine of the other kind, in place."""
    width = dtype.itemsize // (2 if dtype.is_complex else 1)
    if width > 1 and content.nbytes():
        whole = content.nbytes() // width * width
        values = torch.empty(0, dtype=torch.uint8, device="cpu").set_(content, 0, (whole,), (1,))
        values.numpy().view(f"u{width}").byteswap(inplace=True)


def read_zip(file: BinaryIO, move: Mover):
    """Read what :func:`torch.save` writes since PyTorch 1.6.

    Raises:
        UnsafePickleError: if the archive holds something else, or claims more than it has.
        Exception: of many kinds, if it is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = _root(entries)
        if sum(entry.file_size for entry in entries.values()) > size:
            raise UnsafePickleError("its entries claim more bytes than the file has")
        order = sys.byteorder
        if f"{root}byteorder" in entries:
            order = archive.read(f"{root}byteorder").decode("ascii", "replace").strip()
        if order not in ("little", "big"):
            raise UnsafePickleError(f"an order of bytes named {order[:20]!r}")

        def read(key: str, size: int, dtype: torch.dtype) -> torch.UntypedStorage:
            entry = entries.get(f"{root}data/{key}")
            if entry is None or entry.file_size < size:
                have = "none" if entry is None else f"{entry.file_size} bytes"
                raise UnsafePickleError(
                    f"storage {shown(key)} of {size} bytes, of which it has {have}"
                )
            with archive.open(entry) as content:
                storage = _fill(entry.file_size, content, f"storage {shown(key)}")
            if order != sys.byteorder:
                _swap(storage, dtype)
            return storage

        return _read_pickle(io.BytesIO(archive.read(f"{root}data.pkl")), move, read)


def _root(entries: dict[str, zipfile.ZipInfo]) -> str:
    """The folder that the archive's entries are in."""
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("data.pkl")]
    root = min(roots, key=len, default=None)
    if root is None or root.count("/") > 1:
        raise UnsafePickleError(
            f"it is a zip archive of something else: {', '.join(list(entries)[:3]) or 'nothing'}"
        )
    if f"{root}constants.pkl" in entries:
        raise UnsafePickleError(
            "it is a TorchScript program, not a state dict: load it with torch.jit.load, if you "
            "trust it, and save its state_dict()"
        )
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UnsafePickleError(f"{name!r} in it is compressed, which torch.save never does")
    return root


def _read_pickle(file: BinaryIO, move: Mover, read: Callable):
    tensors = Tensors()
    storages = _Storages(tensors, move, read)
    return Reader({**STAND_INS, **tensors.names()}, storages).read(file)


class _Bounded(io.RawIOBase):
    """A file of which no more is asked for than it has: pickles claim lengths, too."""

    def __init__(self, file: BinaryIO):
        self.file, self.size = file, file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        left = max(self.size - self.file.tell(), 0)
        return self.file.read(left if count is None or count < 0 else min(count, left))

    def readline(self, limit: int = -1) -> bytes:
        return self.file.readline(limit)

    def tell(self) -> int:
        return self.file.tell()


def read_pickles(file: BinaryIO, move: Mover):
    """Read what :func:`torch.save` wrote before PyTorch 1.6, or one pickle of arrays.

    Raises:
        UnsafePickleError: if it holds something else, or claims more than it has.
        Exception: of many kinds, if it is damaged.
    """
    bounded = _Bounded(file)
    first = _plain(bounded)
    if first != MAGIC:
        return _with_tensors(first)
    if _plain(bounded) != VERSION:
        raise UnsafePickleError("a version of PyTorch's old format that is not known")
    system = _plain(bounded)
    little = not isinstance(system, dict) or system.get("little_endian", True)
    start = file.tell()
    for _ in pickletools.genops(bounded):  # the storages are behind it
        pass
    keys = _plain(bounded)
    if not isinstance(keys, list) or not all(isinstance(_text(key), str) for key in keys):
        raise UnsafePickleError("no list of storages")
    behind = file.tell()
    widths: dict[str, tuple[int, torch.dtype]] = {}

    def note(key: str, size: int, dtype: torch.dtype) -> torch.UntypedStorage:
        widths[key] = (size, dtype)
        return torch.UntypedStorage(size, device="meta")

    file.seek(start)
    _read_pickle(bounded, lambda storage, location: storage, note)
    file.seek(behind)
    contents = {}
    for key in map(_text, keys):
        size, dtype = widths.get(key, (None, None))
        (count,) = struct.unpack("<q", bounded.read(8))
        left = bounded.size - file.tell()
        if size is None or count * dtype.itemsize != size or size > left:
            raise UnsafePickleError(
                f"storage {shown(key)} of {size} bytes, with {left} left to read"
            )
        contents[key] = _fill(size, bounded, f"storage {shown(key)}")
        if little != (sys.byteorder == "little"):
            _swap(contents[key], dtype)
    missing = sorted(set(widths) - set(contents))
    if missing:
        raise UnsafePickleError(f"it lacks storage {missing[0]!r}")
    file.seek(start)
    return _read_pickle(bounded, move, lambda key, size, dtype: contents[key])


def _plain(file: BinaryIO):
    """A pickle without storages."""

    def refuse(_):
        raise UnsafePickleError("a bare pickle with storages")

    return Reader(STAND_INS, refuse).read(file)


def _with_tensors(value):
    """Arrays as tensors, in dicts of dicts: detectron2 and others pickle their weights so."""
    done: set[int] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if not isinstance(current, dict) or id(current) in done:
            continue
        done.add(id(current))
        for key, item in current.items():
            if isinstance(item, np.ndarray):
                current[key] = torch.from_numpy(native(item))
            else:
                waiting.append(item)
    return value


def read_safetensors(file: BinaryIO, move: Mover) -> dict[str, torch.Tensor]:
    """Read a safetensors file, whose library compares every claim with what there is.

    Raises:
        ImportError: if safetensors is not installed.
        Exception: of many kinds, if it is damaged.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "the checkpoint is a safetensors file: pip install safetensors"
        ) from error

    path = getattr(file, "name", None)
    if isinstance(path, str):  # reads one tensor after the other, so that it takes less memory
        with safetensors.safe_open(path, framework="pt", device="cpu") as whole:
            tensors = {key: whole.get_tensor(key) for key in whole.keys()}  # noqa: SIM118
    else:
        tensors = safetensors.torch.load(file.read())
    for tensor in tensors.values():
        if tensor.dtype is torch.bool:
            refuse_odd_booleans(tensor.untyped_storage())
    place = move(torch.UntypedStorage(0), "cpu").device
    return {key: tensor.to(place) for key, tensor in tensors.items()}
