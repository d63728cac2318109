"""What a file is that is no checkpoint."""

from __future__ import annotations

import re

_LFS = "a Git LFS pointer, and the weights are elsewhere: fetch them with `git lfs pull`"
_ARCHIVE = "archive: unpack it, and give the checkpoint in it"
#: How files begin, after white space if they are text, and what they are then.
_BEGINNINGS = (
    (rb"version https://git-lfs", _LFS),
    (rb"<(!doctype\s+html|html|head|body)\b", "an HTML page: what was saved is a web page, perhaps "
     "of a login or an error, and not the file that it links to"),
    (rb"<\?xml|<Error", "an XML document, perhaps a server's error, not the file"),
    (rb"[{\[]", "text in JSON, not weights"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\0\0\0\0|II\*\0|MM\0\*|RIFF....WEBP", "an image"),
    (rb"\x1f\x8b", f"a gzip {_ARCHIVE}"),
    (rb"BZh", f"a bzip2 {_ARCHIVE}"),
    (rb"\xfd7zXZ", f"an xz {_ARCHIVE}"),
    (rb"\x28\xb5\x2f\xfd", f"a zstd {_ARCHIVE}"),
    (rb"7z\xbc\xaf", f"a 7z {_ARCHIVE}"),
    (rb"Rar!", f"a rar {_ARCHIVE}"),
    (rb".{257}ustar", f"a tar {_ARCHIVE}; if PyTorch before 0.2 wrote it, load and save it there"),
    (rb"\x89HDF", "an HDF5 file, of Keras or MATLAB perhaps: convert it to a dict of tensors"),
    (rb"\x93NUMPY", "a single numpy array, not a dict of tensors"),
    (rb"GGUF", "a GGUF file, not a dict of tensors"),
    (rb"%PDF", "a PDF document"),
    (rb"#!|#\s|import |from ", "text, perhaps a program"),
)  # fmt: skip


def describe_unsupported_file(beginning: bytes) -> str | None:
    """What a file is that begins so, or ``None`` if it may be a checkpoint.

    Args:
        beginning: its first bytes, 512 of them if there are as many.
    """
    if not beginning:
        return "empty: it has no bytes"
    if not any(beginning):
        return "nothing but zeros, perhaps of a download that was cut off"
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, what in _BEGINNINGS:
        if re.match(pattern, text, re.I | re.S):
            return what
    if len(text) > 3 and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in beginning):
        return f"text, not weights; it begins with {text[:40].decode('ascii')!r}"
    return None
