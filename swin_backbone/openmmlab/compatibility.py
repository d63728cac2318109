"""Which OpenMMLab packages are here, and whether they can work together.

There are two lines with the same import names. The maintained one is published as ``onedl-*``;
the classic one as ``mmengine``, ``mmcv`` or ``mmcv-lite``, ``mmsegmentation`` and ``mmdet``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from packaging.version import Version

from ..framework import INSTALL
from .switches import VARIABLE

#: For each import name, the distributions that provide it: the maintained one first.
PROVIDERS = {
    "mmengine": ("onedl-mmengine", "mmengine", "mmengine-lite"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite", "mmcv-full"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
}

#: Classic mmsegmentation and mmdet refuse newer mmcv when they are imported.
CLASSIC_MMCV_LIMIT = "2.2.0"


def check_packages() -> None:
    """Raise ``ImportError``, saying what to install, unless the packages here can work."""
    problem = find_conflict(installed_distributions())
    if problem is not None:
        raise ImportError(
            f"{problem}; in a fresh environment, {INSTALL}; or do without: {VARIABLE}=openmmlab"
        )


def installed_distributions() -> dict[str, str]:
    """Version of every OpenMMLab distribution that is installed, by its name."""
    versions = {}
    for name in (name for names in PROVIDERS.values() for name in names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def find_conflict(versions: Mapping[str, str]) -> str | None:
    """Say what cannot work among installed distributions, or ``None``.

    Args:
        versions: version by distribution name.
    """
    for module, names in PROVIDERS.items():
        present = [f"{name} {versions[name]}" for name in names if name in versions]
        if len(present) > 1:
            return f"{' and '.join(present)} both provide {module!r} and overwrite each other"
    mmcv = next((name for name in PROVIDERS["mmcv"] if name in versions), None)
    if mmcv is None:
        return None
    version = Version(versions[mmcv])
    if version < Version("2.0.0"):
        return f"{mmcv} {version} is too old (2.0.0 or newer is needed)"
    for classic in ("mmsegmentation", "mmdet"):
        if classic in versions and version >= Version(CLASSIC_MMCV_LIMIT):
            return (
                f"{classic} {versions[classic]} works with mmcv below {CLASSIC_MMCV_LIMIT}, "
                f"found {mmcv} {version}"
            )
    return None
