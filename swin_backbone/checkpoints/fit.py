"""Turn another library's state dict into one that a backbone can load, or say why it cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .checkpoint_report import CheckpointError, CheckpointReport, is_finite
from .layouts import CLASSIFIER
from .resize_parameters import TABLE_INTERPOLATIONS, adapt_input_channels, resize_absolute_embedding
from .translate import Translation, find_version, to_ours

#: Parameters that checkpoints may lack without being somebody else's: dense prediction adds them.
_OPTIONAL = re.compile(r"norm\d+\.|absolute_pos_embed")
_FINAL_NORM = re.compile(r"norm\.\w+")
_OUTPUT_NORM = re.compile(r"norm\d+\.\w+")
NOT_RETURNED = "norm of a stage that the backbone does not return"
NO_OUTPUT_NORMS = "the backbone has no output norms (output_norms=False)"
FRESH_OUTPUT_NORMS = (
    "the checkpoint brings no output norms, so that those of the backbone are fresh and have to be "
    "trained; output_norms=False gives maps without them, as the checkpoint's own model does"
)
_SHOWN = 5


@dataclass(frozen=True)
class Target:
    """What a backbone takes.

    Attributes:
        shapes: its keys and their shapes.
        window_sizes: rows and columns of each stage's windows, in tokens.
        position_grid: rows and columns of the map of its absolute position embedding.
        table_interpolation: how bias tables of another window are resized, a name in
            :data:`swin_backbone.checkpoints.resize_parameters.TABLE_INTERPOLATIONS`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    window_sizes: Sequence[tuple[int, int]]
    position_grid: tuple[int, int]
    table_interpolation: str = "bicubic"


def fit_state_dict(
    tensors: Mapping[str, Tensor], target: Target
) -> tuple[dict[str, Tensor], CheckpointReport]:
    """Rename, reorder and resize tensors until they fit.

    Args:
        tensors: the backbone's tensors in any known layout.
        target: what the backbone takes.

    Returns:
        Tensors under our names, those that nothing takes among them under theirs, and the
        report.

    Raises:
        CheckpointError: if no layout explains the keys, they are another version's, a tensor is
            not finite or not floating point, or a shape fits in no way.
    """
    source = to_ours(tensors)
    report = CheckpointReport(source.layout.name, ignored=dict(source.ignored))
    fitted, problems = {}, []
    # A norm of another type may have parameters that no layout knows of, under our names.
    own = {key: tensors[key] for key in source.unknown if key in target.shapes}
    unknown = [key for key in source.unknown if key not in own]
    for name, tensor in {**source.tensors, **own}.items():
        key = source.origin.get(name, name)
        if name not in target.shapes:
            if _FINAL_NORM.fullmatch(name):
                report.ignored[key] = CLASSIFIER
            elif _OUTPUT_NORM.fullmatch(name) and _is_stage(name, target):
                normed = any(map(_OUTPUT_NORM.fullmatch, target.shapes))
                report.ignored[key] = NOT_RETURNED if normed else NO_OUTPUT_NORMS
            else:
                report.unexpected.append(key)
                fitted[key] = tensor
            continue
        fitted[name] = _fit_tensor(name, tensor, target, report)
        problem = _problem(tensor, fitted[name], target.shapes[name])
        if problem is not None:
            problems.append(f"  {key}: {problem}")
    report.unexpected = [*unknown, *report.unexpected]
    fitted |= {key: tensors[key] for key in unknown}
    report.missing = [key for key in target.shapes if key not in fitted]
    if any(map(_OUTPUT_NORM.fullmatch, report.missing)) and not any(
        map(_OUTPUT_NORM.fullmatch, source.tensors)
    ):
        report.notes.append(FRESH_OUTPUT_NORMS)
    _check_kind(source, target, report)
    if problems:
        raise CheckpointError(
            f"checkpoint in {source.layout.name} layout does not fit the backbone; nothing was "
            f"loaded:\n" + "\n".join(problems)
        )
    return fitted, report


def _is_stage(norm: str, target: Target) -> bool:
    """Whether ``norm3.weight`` is of a stage that the backbone has."""
    return int(norm.split(".")[0].removeprefix("norm")) < len(target.window_sizes)


def _check_kind(source: Translation, target: Target, report: CheckpointReport) -> None:
    """Raise if the checkpoint is another version's, or its keys are no backbone's we know."""
    wanted = find_version(target.shapes)
    if source.version != wanted and any(".blocks." in name for name in source.tensors):
        raise CheckpointError(
            f"checkpoint in {source.layout.name} layout is of Swin {source.version.upper()}, the "
            f"backbone of version={wanted!r}; nothing was loaded"
        )
    missing = [key for key in report.missing if not _OPTIONAL.match(key)]
    if missing and report.unexpected:
        raise CheckpointError(
            f"checkpoint has a layout that is not known; nothing was loaded. The nearest is "
            f"{source.layout.name}, but it has no {_some(report.unexpected)}, and "
            f"{_some(missing)} would be missing"
        )


def _some(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _fit_tensor(
    name: str, tensor: Tensor, target: Target, report: CheckpointReport
) -> Tensor | None:
    """The tensor in the target's shape, or ``None`` if there is no way."""
    wanted = target.shapes[name]
    if tuple(tensor.shape) == wanted:
        report.loaded.append(name)
        return tensor
    if not tensor.is_floating_point():
        return None
    if name == "patch_embed.projection.weight":
        return _fit_patch_embedding(name, tensor, wanted, report)
    resized = None
    if name.endswith("relative_position_bias_table") and tensor.dim() == 2:
        resize = TABLE_INTERPOLATIONS[target.table_interpolation]
        resized = resize(tensor, target.window_sizes[int(name.split(".")[1])])
    elif name == "absolute_pos_embed" and tensor.dim() == 3:
        resized = resize_absolute_embedding(tensor, target.position_grid)
    if resized is None or tuple(resized.shape) != wanted:
        return None
    report.interpolated[name] = (tuple(tensor.shape), wanted)
    return resized


def _fit_patch_embedding(name, tensor, wanted, report) -> Tensor | None:
    if tensor.dim() != 4 or (*tensor.shape[:1], *tensor.shape[2:]) != (*wanted[:1], *wanted[2:]):
        return None
    old, new = tensor.shape[1], wanted[1]
    how = "summed" if new == 1 else "repeated and scaled"
    report.adapted[name] = f"{old} input channels {how} to {new}"
    return adapt_input_channels(tensor, new)


def _problem(tensor: Tensor, fitted: Tensor | None, wanted: tuple[int, ...]) -> str | None:
    if not tensor.is_floating_point():
        return f"checkpoint has {tensor.dtype}, parameters are floating point"
    if fitted is None:
        return f"checkpoint has {tuple(tensor.shape)}, backbone takes {wanted}"
    if not is_finite(tensor):
        return "checkpoint has values that are not finite (NaN or infinity)"
    return None
