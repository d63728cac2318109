"""Where the project's configs lie: in the wheel, or in the checkout of an editable installation."""

from __future__ import annotations

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
#: How many names an error lists at most.
_LISTED = 8


def configs_folder() -> Path:
    """The folder of the project's configs: the wheel's own, else the checkout's.

    Raises:
        FileNotFoundError: if neither is there.
    """
    packed, checkout = _PACKAGE / ".mim" / "configs", _PACKAGE.parent / "configs"
    for folder in (packed, checkout):
        if (folder / "_base_").is_dir():
            return folder
    raise FileNotFoundError(
        f"the configs of swin_backbone are neither in {packed} nor in {checkout}: install it from "
        "a wheel, or with 'pip install -e' from a checkout"
    )


def list_configs(bases: bool = False) -> list[str]:
    """Names of the project's configs, sorted, as :func:`config_path` takes them.

    Args:
        bases: of what configs are made of (``_base_/...``), instead of whole configs.
    """
    folder = configs_folder()
    found = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py"))
    return sorted(path.as_posix() for path in found if (path.parts[0] == "_base_") == bases)


def config_path(name: str) -> str:
    """Path of one of the project's configs, wherever the package is installed.

    For ``_base_`` in a config of one's own, since a base is a path::

        _base_ = [__import__("swin_backbone").config_path("swin/swin-tiny-...")]

    Args:
        name: as ``swin/NAME``, ``NAME`` or ``_base_/models/upernet_swin``, with or without
            ``.py``; or a part that only one config's name holds. Bases are found only by names that
            begin with ``_base_/``.

    Returns:
        An absolute path.

    Raises:
        TypeError: if ``name`` is no string.
        ValueError: if no config has this name, or several hold it; the error lists what is near.
        FileNotFoundError: if the package was installed without its configs.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    wanted = name.removesuffix(".py")
    names = list_configs(bases=wanted.startswith("_base_/"))
    for matches in (
        [known for known in names if known == wanted],
        [known for known in names if known.rpartition("/")[2] == wanted],
        [known for known in names if wanted and wanted in known],
    ):
        if len(matches) == 1:
            return str(configs_folder() / f"{matches[0]}.py")
        if matches:
            raise ValueError(f"name {name!r} is part of {len(matches)} configs: {_listed(matches)}")
    near = _near(wanted, names)
    hint = f"; near it: {_listed(near)}" if near else ""
    raise ValueError(
        f"name {name!r} is no config of swin_backbone{hint} (swin_backbone.list_configs() has all)"
    )


def _near(wanted: str, names: list[str]) -> list[str]:
    """Names like ``wanted``, with or without their folder, the nearest first."""
    ends = {known.rpartition("/")[2]: known for known in names}
    found = difflib.get_close_matches(wanted, [*names, *ends], n=_LISTED, cutoff=0.5)
    return list(dict.fromkeys(ends.get(one, one) for one in found))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
