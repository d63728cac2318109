"""How weights get into a backbone: the one way for torch's, mmengine's and our own loading."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mmengine.logging import print_log
from torch import Tensor

from .checkpoints import (
    CheckpointReport,
    Target,
    find_backbone,
    fit_state_dict,
    read_checkpoint,
)

if TYPE_CHECKING:
    from .backbone import SwinBackbone


def resolve_init_cfg(init_cfg: dict | None, pretrained: str | None) -> dict | None:
    """``init_cfg`` from itself or from ``pretrained``, its old form.

    Raises:
        ValueError: if both are given, or ``init_cfg`` names no checkpoint.
        TypeError: if ``pretrained`` is no text.
    """
    if pretrained is not None:
        if init_cfg is not None:
            raise ValueError("give init_cfg or pretrained, not both")
        if not isinstance(pretrained, str):
            raise TypeError(f"pretrained must be a path or an address, got {pretrained!r}")
        return {"type": "Pretrained", "checkpoint": pretrained}
    if init_cfg is not None and (
        init_cfg.get("type") != "Pretrained" or not init_cfg.get("checkpoint")
    ):
        raise ValueError(
            f"init_cfg must be None or dict(type='Pretrained', checkpoint=...), got {init_cfg}"
        )
    return init_cfg


def fit_checkpoint(
    module: SwinBackbone, checkpoint: object
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


def adapt_state_dict(module: SwinBackbone, state_dict, prefix, *_) -> None:
    """Before any loading: turn a known foreign layout into ours, in place, and report it.

    Runs inside ``load_state_dict`` of the backbone or of any model that contains it, torch's
    and mmengine's alike. It raises before a single parameter was touched.
    """
    inside = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if not inside:
        return
    fitted, report = fit_checkpoint(module, inside)
    for key in inside:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in fitted.items()})
    module.checkpoint_report = report
    _log_report(f"{type(module).__name__} ({prefix.rstrip('.') or 'alone'})", report)


def load_pretrained(module: SwinBackbone, source: str) -> None:
    """Load a file, from wherever :func:`swin_backbone.checkpoints.read_checkpoint` reads it.

    Output norms and the like, which a classifier's checkpoint lacks, keep their values; the
    report says so.

    Raises:
        CheckpointError: if the file is damaged or does not fit; nothing was loaded then.
    """
    tensors, ignored = find_backbone(read_checkpoint(source))
    module.load_state_dict(tensors, strict=False)
    if ignored:
        module.checkpoint_report.ignored.update(ignored)
        _log_report(f"whole model {source}", module.checkpoint_report)


def _log_report(what: str, report) -> None:
    incomplete = report.missing or report.unexpected
    level = logging.WARNING if incomplete else logging.INFO
    print_log(f"{what}: {report}", logger="current", level=level)
