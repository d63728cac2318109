"""What ``swin-backbone env`` says about OpenMMLab."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib import util

from .compatibility import find_conflict, installed_distributions


def describe_openmmlab() -> Iterator[tuple[str, str]]:
    """Names and values: distributions, what cannot work together, who serves mmcv's ops."""
    versions = installed_distributions()
    yield from versions.items()
    if not versions:
        yield "OpenMMLab", "not installed"
    conflict = find_conflict(versions)
    if conflict is not None:
        yield "conflict", conflict
    yield "mmcv's ops", mmcv_ops()


def mmcv_ops() -> str:
    """Who computes what ``mmcv.ops`` asks for."""
    if util.find_spec("mmcv") is None:
        return "no mmcv"
    from .mmcv_ext import EXTENSION, FallbackFinder

    try:
        spec = importlib.import_module(EXTENSION).__spec__
    except ImportError as error:
        return f"cannot be loaded: {error}"
    served = spec is not None and isinstance(spec.loader, FallbackFinder)
    return "served by swin_backbone" if served else "compiled"
