"""Reading configs and building what they name, with errors that name the config."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from ..config_errors import as_config_error

#: Settings that no config has to have and that are no argument of a runner: of OpenMMLab's tools.
_TOOLS_SETTINGS = ("runner_type", "tta_model", "tta_pipeline", "find_unused_parameters")


def read_config(path: str | Path, changes: Mapping | None = None) -> Config:
    """The config of a file, with changes.

    Args:
        path: of a ``.py``, ``.json`` or ``.yaml`` file.
        changes: settings by their dotted names, as ``--cfg-options`` has them.

    Raises:
        FileNotFoundError: if there is no such file, or a base of it is not there.
        ValueError: if it cannot be read, a change does not fit its structure, or a change begins
            with a name that neither the config nor a runner knows.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"config {str(path)!r} is not a file")
    with as_config_error(f"config {str(path)!r} cannot be read"):
        cfg = Config.fromfile(path)
    change_config(cfg, changes or {})
    return cfg


def change_config(cfg: Config, changes: Mapping) -> None:
    """Change a config in place.

    Raises:
        ValueError: see :func:`read_config`.
    """
    known = {*cfg, *_TOOLS_SETTINGS}
    for runner in (Runner, FlexibleRunner):
        known |= set(inspect.signature(runner).parameters)
    for name in changes:
        first = name.split(".")[0]
        if first not in known:
            near = difflib.get_close_matches(first, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"the config has no {first!r}, which {name!r} is to change{hint}")
    with as_config_error(f"the config cannot be changed by {dict(changes)}"):
        cfg.merge_from_dict(dict(changes))
