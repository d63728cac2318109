"""From anybody's names and orders to ours, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .checkpoint_report import CheckpointError, CheckpointReport
from .layouts import EXPORTS, LAYOUTS, Layout, Windows

_REDUCTION = re.compile(r"stages\.(\d+)\.downsample\.reduction\.weight")
_OUTPUT_NORM = re.compile(r"norm(\d+)\.(\w+)")
_V2_KEY = re.compile(r"\.(logit_scale|cpb_mlp|continuous_position_bias_mlp)\b")
_SWINV2_CR = (
    "checkpoint is of timm's swinv2_cr, another architecture than Swin V2: its position network "
    "takes coordinates on another scale and has no sigmoid, its keys have a bias, and its patch "
    "merging norms first"
)


@dataclass
class Translation:
    """A checkpoint in our names and orders.

    Attributes:
        layout: whose names it had.
        version: ``'v1'`` or ``'v2'``.
        tensors: by our names. A classifier's final norm is ``norm.weight`` and ``norm.bias``.
        origin: their key, by our name, where a tensor comes from one key.
        ignored: their keys that hold nothing for a backbone, with the reason.
        unknown: their keys that the layout does not have.
    """

    layout: Layout
    version: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def find_version(keys: Mapping[str, object]) -> str:
    """``'v2'`` if any key is of cosine attention or of a position network, else ``'v1'``."""
    return "v2" if any(_V2_KEY.search(key) for key in keys) else "v1"


def to_ours(tensors: Mapping[str, Tensor]) -> Translation:
    """Recognise a layout from keys and shapes, and translate.

    Args:
        tensors: a backbone's tensors in any known layout.

    Raises:
        CheckpointError: if no layout explains a single key; it names the nearest.
    """
    if any(".attn.meta_mlp." in key for key in tensors):
        raise CheckpointError(_SWINV2_CR)
    version = find_version(tensors)
    attempts = [_rename(tensors, layout, version) for layout in LAYOUTS]
    best = max(attempts, key=_explained)
    if not _explained(best):
        raise CheckpointError(_no_layout(tensors, attempts))
    best.tensors = best.layout.to_ours(best.tensors, version)
    return best


def _rename(tensors: Mapping[str, Tensor], layout: Layout, version: str) -> Translation:
    attempt = Translation(layout, version)
    for key, tensor in tensors.items():
        name = layout.rename(key, version)
        if name is None and _OUTPUT_NORM.fullmatch(key):
            name = key  # some models add them to a layout that has none, see find_backbone
        reason = layout.why_ignored(key)
        if reason is not None:
            attempt.ignored[key] = reason
        elif name is None or name in attempt.tensors:
            attempt.unknown.append(key)
        else:
            attempt.tensors[name] = tensor
            attempt.origin[name] = key
    for name in _misplaced(attempt.tensors):
        attempt.unknown.append(attempt.origin.pop(name))
        del attempt.tensors[name]
    return attempt


def _misplaced(tensors: Mapping[str, Tensor]) -> list[str]:
    """Patch mergings whose channels are not their stage's: another layout counts otherwise."""
    misplaced = []
    for name, tensor in tensors.items():
        found = _REDUCTION.fullmatch(name)
        norm = found and tensors.get(f"stages.{found[1]}.blocks.0.norm1.weight")
        if norm is not None and tensor.shape[-1] != 4 * norm.numel():
            misplaced.append(name)
    return misplaced


def _explained(attempt: Translation) -> int:
    return len(attempt.tensors)


def _no_layout(tensors: Mapping[str, Tensor], attempts: list[Translation]) -> str:
    nearest = max(attempts, key=lambda attempt: len(attempt.ignored))
    known = ", ".join(layout.name for layout in LAYOUTS)
    return (
        f"checkpoint is not of a Swin backbone: none of its {len(tensors)} keys fits any known "
        f"layout ({known}); the nearest is {nearest.layout.name}, and the first keys that do not "
        f"fit it are {nearest.unknown[:5]}"
    )


def to_theirs(
    tensors: Mapping[str, Tensor],
    library: str,
    windows: Windows | None = None,
) -> tuple[dict[str, Tensor], CheckpointReport]:
    """Our tensors as another library names and orders them.

    Args:
        tensors: by our names, as ``SwinBackbone.state_dict()`` has them. If there is no
            classifier's final norm (``norm.weight``) among them, the last stage's output norm
            takes its place.
        library: ``'official'``, ``'mmseg'``, ``'mmdet'``, ``'mmpretrain'``, ``'timm'``,
            ``'torchvision'`` or ``'transformers'``.
        windows: needed only for the buffers that torchvision and mmpretrain keep for V2, and for
            windows that are not square.

    Returns:
        Their tensors, and a report: what they have no place for is ``ignored``.

    Raises:
        ValueError: if the library is unknown, or does not have this version of Swin.
    """
    version = find_version(tensors)
    layout = _export_layout(library, version)
    report = CheckpointReport(library)
    contents = layout.to_theirs(dict(tensors), version)
    names = layout.names[version]
    theirs: dict[str, Tensor] = {}
    for key, tensor in contents.items():
        name = names.to_theirs(key)
        if name is None:
            report.ignored[key] = f"{library} has no place for it"
        else:
            theirs[name] = tensor.contiguous()
            report.loaded.append(name)
    _add_final_norm(contents, theirs, names, report)
    theirs |= layout.buffers(contents, version, windows or Windows())
    return theirs, report


def _export_layout(library: str, version: str) -> Layout:
    if (library, version) not in EXPORTS:
        libraries = sorted({name for name, _ in EXPORTS})
        if library in libraries:
            raise ValueError(f"{library} has no Swin {version.upper()}")
        raise ValueError(f"library must be one of {', '.join(libraries)}, got {library!r}")
    return EXPORTS[library, version]


def _add_final_norm(contents, theirs, names, report) -> None:
    """Let the last stage's output norm be the final norm of a library that has only that."""
    norms = {key: _OUTPUT_NORM.fullmatch(key) for key in contents}
    norms = {key: found for key, found in norms.items() if found}
    if "norm.weight" in contents or not norms or names.to_theirs(next(iter(norms))) is not None:
        return
    last = max(int(found[1]) for found in norms.values())
    for key, found in norms.items():
        name = names.to_theirs(f"norm.{found[2]}")
        if int(found[1]) == last and name is not None:
            theirs[name] = contents[key]
            report.loaded.append(name)
            report.ignored.pop(key, None)
