"""Checkpoints of one library for another, with nothing lost that nobody told of."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .checkpoint_report import CheckpointError, CheckpointReport, is_finite
from .layouts import Windows
from .read import find_backbone
from .translate import Translation, to_ours, to_theirs

_BLOCK = re.compile(r"(stages\.\d+\.blocks\.\d+)\.(.+)")
_COORDINATES = re.compile(r"relative_coords_table$")
_OPTIONAL_PARTS = ("norm3.weight", "norm3.bias")  # every n-th block of some models
_SHOWN = 5


def convert_checkpoint(
    checkpoint: object,
    library: str,
    windows: Windows | None = None,
    *,
    prefix: str | None = None,
    key: str | None = None,
) -> tuple[dict[str, Tensor], CheckpointReport]:
    """Turn what a file holds into what a library's model takes.

    Args:
        checkpoint: what a file of any known layout holds.
        library: whose model the result is for, see
            :func:`swin_backbone.checkpoints.to_theirs`.
        windows: see there; ``None`` takes V2's window from the checkpoint, if it says.
        prefix: which backbone of the file, if it holds several, and
        key: which of its state dicts; see :func:`swin_backbone.checkpoints.find_backbone`.

    Returns:
        Their tensors, and the report: ``layout`` names both sides, and what found no place is
        ``ignored`` with the reason.

    Raises:
        CheckpointError: if the layout is not known, keys do not fit it, blocks lack tensors, or
            values are not finite floating-point numbers.
        ValueError: if the library is unknown, or does not have this version of Swin.
    """
    tensors, outside = find_backbone(checkpoint, prefix, key)
    source = to_ours(tensors)
    check_complete(source)
    theirs, report = to_theirs(source.tensors, library, windows or find_windows(tensors))
    origin = {name: source.origin.get(name, name) for name in report.ignored}
    ignored = {origin[name]: reason for name, reason in report.ignored.items()}
    report.ignored = {**outside, **source.ignored, **ignored}
    report.layout = f"{source.layout.name} to {library}, Swin {source.version.upper()},"
    return theirs, report


def check_complete(source: Translation) -> None:
    """Raise ``CheckpointError`` unless the tensors are those of a whole backbone."""
    if source.unknown:
        raise CheckpointError(
            f"checkpoint has a layout that is not known. The nearest is {source.layout.name}, "
            f"but it has no {', '.join(source.unknown[:_SHOWN])}"
        )
    blocks: dict[str, set[str]] = {}
    for key, tensor in source.tensors.items():
        if not tensor.is_floating_point() or not is_finite(tensor):
            raise CheckpointError(
                f"{source.origin.get(key, key)} holds other than finite floating-point numbers"
            )
        found = _BLOCK.fullmatch(key)
        if found:
            blocks.setdefault(found[1], set()).add(found[2])
    parts = set().union(*blocks.values()).difference(_OPTIONAL_PARTS)
    missing = [f"{block}.{part}" for block in blocks for part in sorted(parts - blocks[block])]
    if "patch_embed.projection.weight" not in source.tensors:
        missing.insert(0, "patch_embed.projection.weight")
    if missing or not blocks:
        raise CheckpointError(
            f"checkpoint in {source.layout.name} layout is not of a whole backbone: it lacks "
            f"{', '.join(missing[:_SHOWN]) or 'all blocks'}"
        )


def find_windows(tensors: Mapping[str, Tensor]) -> Windows:
    """The window that V2's buffers of a checkpoint are for; unknown if it has none."""
    for key, tensor in tensors.items():
        if _COORDINATES.search(key) and tensor.dim() == 4:
            rows, columns = ((side + 1) // 2 for side in tensor.shape[1:3])
            return Windows((rows, columns))
    return Windows()
