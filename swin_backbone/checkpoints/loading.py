"""How weights get into a backbone: the one way for torch's, mmengine's and our own loading."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from os import PathLike
from typing import Any, Protocol

from torch import Tensor, nn

from ..framework import framework
from . import CheckpointError, CheckpointReport, Target, find_backbone, fit_state_dict
from .checkpoint_report import name_some

#: What ``init_cfg`` may hold: mmengine's options of ``Pretrained``, and ``key``.
OPTIONS = ("checkpoint", "prefix", "map_location", "key")
_NAMES = ("Pretrained", "PretrainedInit")
#: Tensors that checkpoints of a backbone may lack: dense prediction adds them.
_ADDED = re.compile(r"norm\d+\.|absolute_pos_embed")


class Backbone(Protocol):
    """What loading needs of a backbone: a module with these.

    Attributes:
        window_sizes: rows and columns of each stage's windows, in tokens.
        position_grid: rows and columns of the map of its absolute position embedding.
        table_interpolation: how bias tables of another window are resized.
        absolute_pos_embed: the embedding, where there is one.
        checkpoint_report: what became of each tensor when weights were last loaded; set here.
    """

    window_sizes: Sequence[tuple[int, int]]
    position_grid: tuple[int, int]
    table_interpolation: str
    absolute_pos_embed: nn.Parameter | None
    checkpoint_report: CheckpointReport | None

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> object: ...

    def draw_weights(self, names: set[str] | None = None) -> None: ...


#: The module that is given tensors which fit it already, and the report of how they were made to.
_FITTED: ContextVar[tuple[Backbone, CheckpointReport] | None] = ContextVar("fitted", default=None)


def resolve_init_cfg(
    init_cfg: Mapping | Sequence[Mapping] | None, pretrained: str | None
) -> dict | None:
    """``init_cfg`` from itself, however it is written, or from ``pretrained``, its old form.

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=...)``, or a list with one such entry. The
            type may be any name that mmengine's registry has for ``PretrainedInit``, with or
            without a scope, its dotted name, or the class.
        pretrained: path or address of a checkpoint.

    Returns:
        ``None``, or a dict with ``type='Pretrained'``, ``checkpoint`` and, if given, ``prefix``,
        ``map_location`` and ``key``.

    Raises:
        ValueError: if both are given, ``init_cfg`` has another type or options that are not known,
            or names no checkpoint.
        TypeError: if ``pretrained``, a checkpoint, prefix or key is no text, or ``init_cfg`` no
            dict.
    """
    if pretrained is not None:
        if init_cfg is not None:
            raise ValueError("give init_cfg or pretrained, not both")
        if not isinstance(pretrained, str):
            raise TypeError(f"pretrained must be a path or an address, got {pretrained!r}")
        return {"type": "Pretrained", "checkpoint": pretrained}
    if isinstance(init_cfg, list | tuple) and len(init_cfg) == 1:
        init_cfg = init_cfg[0]
    if init_cfg is None:
        return None
    if not isinstance(init_cfg, Mapping):
        raise TypeError(f"init_cfg must be None or one dict, got {init_cfg!r}")
    options = {k: v for k, v in init_cfg.items() if k not in ("type", "_scope_")}
    unknown = sorted(options.keys() - set(OPTIONS))
    if not _is_pretrained(init_cfg.get("type")) or not options.get("checkpoint") or unknown:
        raise ValueError(
            f"init_cfg must be None or dict(type='Pretrained', checkpoint=...), optionally with "
            f"{', '.join(OPTIONS[1:])}; got {dict(init_cfg)}"
        )
    for name in ("checkpoint", "prefix", "key"):
        if not isinstance(options.get(name), str | PathLike | None):
            raise TypeError(f"init_cfg's {name} must be text, got {options[name]!r}")
    options["checkpoint"] = str(options["checkpoint"])
    return {"type": "Pretrained", **options}


def _is_pretrained(kind: object) -> bool:
    """Whether the type of an ``init_cfg`` is mmengine's ``PretrainedInit``."""
    if isinstance(kind, str):
        if kind.split(".")[-1] not in _NAMES or not all(kind.split(".")):
            return False
        if "." not in kind:
            return True
    return framework().is_pretrained(kind)


def fit_checkpoint(
    module: Backbone, checkpoint: object
) -> tuple[dict[str, Tensor], CheckpointReport]:
    """What loading a checkpoint into a backbone would do, without doing it.

    Args:
        module: the backbone.
        checkpoint: what a file holds, see :func:`swin_backbone.checkpoints.find_backbone`.

    Returns:
        Tensors under the backbone's names, and the report.

    Raises:
        CheckpointError: if the tensors do not fit.
    """
    tensors, ignored = find_backbone(checkpoint)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    target = Target(shapes, module.window_sizes, module.position_grid, module.table_interpolation)
    fitted, report = fit_state_dict(tensors, target)
    report.ignored.update(ignored)
    return fitted, report


@contextmanager
def already_fitted(module: Backbone, report: CheckpointReport) -> Iterator[None]:
    """Within, what is loaded into a module alone was made to fit by :func:`fit_checkpoint`, and is
    not fitted again.

    Args:
        module: the backbone.
        report: what :func:`fit_checkpoint` said, which loading is to say.
    """
    token = _FITTED.set((module, report))
    try:
        yield
    finally:
        _FITTED.reset(token)


def adapt_state_dict(module: Backbone, state_dict, prefix, *_) -> None:
    """Before any loading: turn another library's known layout into ours, in place, and report it.

    Runs inside ``load_state_dict`` of the backbone or of any model that contains it, torch's
    and mmengine's alike. It raises before a single parameter was touched.
    """
    inside = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if not inside:
        return
    known = _FITTED.get()
    if known is not None and known[0] is module:
        report = known[1]
    else:
        fitted, report = fit_checkpoint(module, inside)
        for key in inside:
            del state_dict[prefix + key]
        state_dict.update({prefix + key: value for key, value in fitted.items()})
    module.checkpoint_report = report
    _log_report(f"{type(module).__name__} ({prefix.rstrip('.') or 'alone'})", report)


def load_pretrained(module: Backbone, init_cfg: Mapping) -> None:
    """Load what an ``init_cfg`` names, from wherever mmengine or we can read it.

    Parameters that the checkpoint lacks, such as the output norms if it is a classifier's, get
    fresh values; the report says so.

    Args:
        module: the backbone.
        init_cfg: what :func:`resolve_init_cfg` returns.

    Raises:
        CheckpointError: if the file is damaged or does not fit; nothing was loaded then.
    """
    source = init_cfg["checkpoint"]
    checkpoint = framework().read_checkpoint(source, init_cfg.get("map_location", "cpu"))
    tensors, ignored = find_backbone(checkpoint, init_cfg.get("prefix"), init_cfg.get("key"))
    fitted, report = fit_checkpoint(module, tensors)
    if report.missing:
        module.draw_weights(set(report.missing))
    if "absolute_pos_embed" in report.missing:  # the weights were trained without it
        nn.init.zeros_(module.absolute_pos_embed)
    with already_fitted(module, report):
        module.load_state_dict(fitted, strict=False)
    if ignored:
        module.checkpoint_report.ignored.update(ignored)
        _log_report(f"whole model {source}", module.checkpoint_report)


def require_backbone_weights(backbone: nn.Module, allow_missing: bool = False) -> None:
    """Check that a backbone that was made with weights has all of them.

    Output norms and position embedding, which checkpoints of classifiers do not have, may be fresh;
    the report names them.

    Args:
        backbone: made by :func:`swin_backbone.create`.
        allow_missing: do not raise for missing tensors.

    Raises:
        CheckpointError: if a tensor is missing.
    """
    report = getattr(backbone, "checkpoint_report", None)
    missing = [key for key in report.missing if not _ADDED.match(key)] if report else []
    if missing and not allow_missing:
        raise CheckpointError(
            f"checkpoint is not of this backbone: {len(missing)} tensors are missing: "
            f"{name_some(missing)}"
        )


def _log_report(what: str, report) -> None:
    incomplete = report.missing or report.unexpected
    level = logging.WARNING if incomplete else logging.INFO
    framework().log(f"{what}: {report}", level)
