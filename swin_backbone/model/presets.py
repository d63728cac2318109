"""Names that stand for a backbone: published architectures, and published weights."""

from __future__ import annotations

import difflib
import re
from typing import Any

from ..checkpoints import list_checkpoints
from .arguments import ARCHITECTURES

_RELEASE = re.compile(r"official/(swin(?:v2)?_[a-z]+)_patch4_(window\d+(?:to\d+)?)_")


def list_architectures() -> dict[str, dict[str, Any]]:
    """Arguments of :class:`SwinBackbone` by the name of the architecture.

    ``'tiny'`` to ``'large'`` are V1 with windows of 7. ``'swin_base_window12'`` and
    ``'swinv2_tiny_window8'`` are what the original released, named by version, size and window in
    tokens; of ``'swinv2_base_window12to16'`` the first window is that of pretraining, to which V2's
    coordinates are scaled.

    Returns:
        Name to arguments, without weights, in a fixed order.
    """
    names: dict[str, dict[str, Any]] = {size: {"arch": size} for size in ARCHITECTURES}
    for entry in list_checkpoints(library="official"):
        release = _RELEASE.match(entry.name)
        if release is not None:
            config = entry.config()
            del config["init_cfg"]
            names.setdefault("_".join(release.groups()), config)
    return names


def arguments_of(name: str) -> dict[str, Any]:
    """Arguments of :class:`SwinBackbone` for the name of an architecture, or of a public checkpoint
    (whose weights then are its ``init_cfg``).

    Raises:
        ValueError: if there is no such name; the message has the nearest.
    """
    known = list_architectures()
    known |= {entry.name: entry.config() for entry in list_checkpoints()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5) or list(ARCHITECTURES)
    raise ValueError(
        f"name_or_config must be a config, its path, or the name of an architecture "
        f"(swin_backbone.list_architectures()) or public checkpoint "
        f"(swin_backbone.list_checkpoints()); got {name!r}, nearest are "
        f"{', '.join(map(repr, near))}"
    )
