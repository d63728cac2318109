"""What became of every tensor of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

_PARTS_SHOWN = 20


class CheckpointError(ValueError, RuntimeError):
    """A checkpoint cannot be read, or does not fit the module; the module is left as it was.

    A ``RuntimeError`` too, which is what users of ``load_state_dict`` expect.
    """


@dataclass
class CheckpointReport:
    """Outcome of one loading.

    Attributes:
        layout: whose parameter names the checkpoint uses.
        loaded: the module's keys that take a tensor of the checkpoint as it is.
        interpolated: the module's keys whose tensor was resized, with both shapes.
        adapted: the module's keys whose tensor was changed otherwise, and how.
        missing: the module's keys that the checkpoint does not have.
        unexpected: the checkpoint's keys that nothing takes.
        ignored: the checkpoint's keys that are left out on purpose, with the reason.
        notes: what follows from it for the maps, in words.
    """

    layout: str
    loaded: list[str] = field(default_factory=list)
    interpolated: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = (
            f"{self.layout} layout: {len(self.loaded)} tensors loaded, "
            f"{len(self.interpolated)} interpolated, {len(self.adapted)} adapted, "
            f"{len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.ignored)} ignored"
        )
        lines = [counts]
        lines += [
            f"  interpolated {key}: {_shape(old)} -> {_shape(new)}"
            for key, (old, new) in self.interpolated.items()
        ]
        lines += [f"  adapted {key}: {how}" for key, how in self.adapted.items()]
        lines += [f"  missing {key}" for key in self.missing]
        lines += [f"  unexpected {key}" for key in self.unexpected]
        lines += [
            f"  ignored {_some(keys)}: {reason}" for reason, keys in self._by_reason().items()
        ]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _by_reason(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for key, reason in self.ignored.items():
            groups.setdefault(reason, []).append(key)
        return groups


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; also if they are not here to see, on the meta device or
    sharded over processes."""
    whole = type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_meta
    return not whole or bool(tensor.isfinite().all())


def _some(keys: list[str]) -> str:
    """A few keys in words; all of them are in the report's own fields."""
    rest = len(keys) - 3
    return ", ".join(keys[:3]) + (f" and {rest} more" if rest > 0 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def name_some(keys: Iterable[str]) -> str:
    """Names; of a part that is there with several, the part and how many."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(".".join(key.split(".")[:2]), []).append(key)
    shown = [
        f"{part}.* ({len(of_part)} tensors)" if len(of_part) > 3 else ", ".join(of_part)
        for part, of_part in groups.items()
    ]
    rest = len(shown) - _PARTS_SHOWN
    return ", ".join(shown[:_PARTS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
