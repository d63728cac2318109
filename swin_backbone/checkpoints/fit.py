"""Turn a foreign state dict into one that a backbone can load, or say why it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .layouts import LAYOUTS, recognise_layout
from .report import CheckpointError, CheckpointReport
from .resize import resize_absolute_embedding, resize_bias_table


@dataclass(frozen=True)
class Target:
    """What a backbone takes.

    Attributes:
        shapes: its keys and their shapes.
        window_size: rows and columns of its windows, in tokens.
        position_grid: rows and columns of the map of its absolute position embedding.
    """

    shapes: Mapping[str, tuple[int, ...]]
    window_size: tuple[int, int]
    position_grid: tuple[int, int]


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
        CheckpointError: if no layout explains the keys, or a shape fits in no way.
    """
    layout, explained = recognise_layout(tensors, target.shapes)
    if not explained:
        raise CheckpointError(_no_layout(tensors))
    report = CheckpointReport(layout.name)
    fitted, misfits = {}, []
    for key, tensor in tensors.items():
        reason = layout.why_ignored(key)
        name = layout.rename(key)
        if reason is not None:
            report.ignored[key] = reason
        elif name not in target.shapes:
            report.unexpected.append(key)
            fitted[key] = tensor
        else:
            value = _fit_tensor(name, layout.convert(name, tensor), target, report)
            if value is None:
                misfits.append(_misfit(key, tensor, target.shapes[name]))
            fitted[name] = value
    if misfits:
        raise CheckpointError(
            f"checkpoint in {layout.name} layout does not fit the backbone; nothing was loaded:\n"
            + "\n".join(misfits)
        )
    report.missing = [key for key in target.shapes if key not in fitted]
    return fitted, report


def _fit_tensor(
    name: str, tensor: Tensor, target: Target, report: CheckpointReport
) -> Tensor | None:
    """The tensor in the target's shape, or ``None`` if there is no way."""
    wanted = target.shapes[name]
    if tuple(tensor.shape) == wanted:
        report.loaded.append(name)
        return tensor
    resized = None
    if name.endswith("relative_position_bias_table") and tensor.dim() == 2:
        resized = resize_bias_table(tensor, target.window_size)
    elif name == "absolute_pos_embed" and tensor.dim() == 3:
        resized = resize_absolute_embedding(tensor, target.position_grid)
    if resized is None or tuple(resized.shape) != wanted:
        return None
    report.interpolated[name] = (tuple(tensor.shape), wanted)
    return resized


def _misfit(key: str, tensor: Tensor, wanted: tuple[int, ...]) -> str:
    return f"  {key}: checkpoint has {tuple(tensor.shape)}, backbone takes {wanted}"


def _no_layout(tensors: Mapping[str, Tensor]) -> str:
    known = ", ".join(layout.name for layout in LAYOUTS)
    return (
        f"checkpoint is not of a Swin backbone: none of its {len(tensors)} keys fits any known "
        f"layout ({known}); it begins with {list(tensors)[:5]}"
    )
