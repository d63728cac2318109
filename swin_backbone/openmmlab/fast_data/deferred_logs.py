"""Losses, and norms of clipped gradients, stay on the device until somebody asks for them.

mmengine writes them into histories of numbers, for which the host waits for the device, every step,
and for the norm before the optimizer's. Here they stay in small tensors, and a history reads all
that it has not read when it is looked at: by a log line, a checkpoint, a hook. Nobody sees another
number than with mmengine's own, a NaN included.

mmengine's histories also copy themselves at each new number; these do when they are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import wraps

import numpy as np
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from torch import Tensor

from ..mmengine_internals import may_clip_without_a_norm

#: Steps that wait to be read; then they are read, whoever asks.
MOST_WAITING = 1000


class GrowingHistory(HistoryBuffer):
    """mmengine's history of a number, to which adding one takes no copy of all before.

    Copies and pickles of it are mmengine's own, so that checkpoints hold what they always do.

    Args:
        history: what it goes on from.

    Attributes:
        reads: brings numbers that lie elsewhere, before this history is looked at.
    """

    def __init__(self, history: HistoryBuffer):
        values, counts = history.data
        super().__init__(values, counts, history.max_length)
        self.reads: Callable[[], None] | None = None
        self._new: list[tuple[float, int]] = []

    def update(self, log_val: float, count: int = 1) -> None:
        """Add a number.

        Raises:
            TypeError: for what is no number, as mmengine's.
        """
        if not isinstance(log_val, (int, float)) or not isinstance(count, (int, float)):
            raise TypeError(
                f"log_val and count must be int or float, got {type(log_val)} and {type(count)}"
            )
        self._bring()
        self.append(log_val, count)

    def append(self, value: float, count: int = 1) -> None:
        """Add a number behind those that were brought."""
        self._new.append((value, count))

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """All numbers and how many items each stands for."""
        self._settle()
        return super().data

    def mean(self, window_size: int | None = None) -> np.ndarray:
        """See mmengine's."""
        self._settle()
        return super().mean(window_size)

    def max(self, window_size: int | None = None) -> np.ndarray:
        """See mmengine's."""
        self._settle()
        return super().max(window_size)

    def min(self, window_size: int | None = None) -> np.ndarray:
        """See mmengine's."""
        self._settle()
        return super().min(window_size)

    def current(self) -> np.ndarray:
        """The last number."""
        self._bring()
        return np.float64(self._new[-1][0]) if self._new else super().current()

    def statistics(self, method_name: str, *args, **kwargs):
        """See mmengine's."""
        self._settle()
        return super().statistics(method_name, *args, **kwargs)

    def __reduce_ex__(self, protocol):
        values, counts = self.data
        return HistoryBuffer(values, counts, self.max_length).__reduce_ex__(protocol)

    def _bring(self) -> None:
        if self.reads is not None:
            self.reads()

    def _settle(self) -> None:
        self._bring()
        if not self._new:
            return
        new, self._new = self._new, []
        values, counts = (
            np.append(old, added)[-self.max_length :]
            for old, added in zip(super().data, zip(*new, strict=True), strict=True)
        )
        super().__init__(values, counts, self.max_length)


class Ledger:
    """Numbers of steps that lie on a device, until :meth:`read`."""

    def __init__(self):
        self._rows: list[tuple[list[GrowingHistory], Tensor]] = []

    def write(self, histories: list[GrowingHistory], values: list[Tensor]) -> None:
        """Put a step's scalars, one a history, behind those before.

        They are copied: a replayed graph writes its next losses into the same memory.
        """
        row = torch.stack([value.detach().reshape(()) for value in values])
        self._rows.append((histories, row))
        if len(self._rows) >= MOST_WAITING:
            self.read()

    def read(self) -> None:
        """Hand all numbers to their histories; waits for the device."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        alike = len({(row.shape, row.dtype, row.device) for _, row in rows}) == 1
        numbers = (
            torch.stack([row for _, row in rows]).tolist()
            if alike
            else [row.tolist() for _, row in rows]
        )
        for (histories, _), row in zip(rows, numbers, strict=True):
            for history, number in zip(histories, row, strict=True):
                history.append(number)


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook``, without waiting for the device.

    default_hooks = dict(runtime_info=dict(type="DeferredRuntimeInfoHook"))
    """

    def __init__(self):
        self._losses, self._norms = Ledger(), Ledger()
        self._undos: list[Callable[[], None]] = []

    def before_train(self, runner) -> None:
        """Have optimizer wrappers clip gradients without a look at their norms."""
        super().before_train(runner)
        for wrapper in _wrappers(runner.optim_wrapper):
            if getattr(wrapper, "clip_func", None) and may_clip_without_a_norm(wrapper):
                self._undos.append(_defer_norms(wrapper, self._norms))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Take a step's losses."""
        scalars = runner.message_hub.log_scalars
        losses = {f"train/{name}": value for name, value in (outputs or {}).items()}
        for name, value in _defer(losses, scalars, self._losses).items():
            runner.message_hub.update_scalar(name, value)
        _grow(scalars)

    def after_train(self, runner) -> None:
        """Give wrappers back what they clip with."""
        super().after_train(runner)
        for undo in self._undos:
            undo()
        self._undos.clear()


def _wrappers(wrapper: OptimWrapper | OptimWrapperDict) -> Iterable[OptimWrapper]:
    return wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def _defer_norms(wrapper: OptimWrapper, ledger: Ledger) -> Callable[[], None]:
    """Have a wrapper's function that clips hand the norm over, and return none; the result takes it
    back."""
    clip, name = wrapper.clip_func, f"train/{wrapper.grad_name}"

    @wraps(clip)
    def clip_and_defer(*args, **kwargs):
        norm = {name: clip(*args, **kwargs)}
        return _defer(norm, wrapper.message_hub.log_scalars, ledger).get(name)

    def undo() -> None:
        if wrapper.clip_func is clip_and_defer:
            wrapper.clip_func = clip

    wrapper.clip_func = clip_and_defer
    return undo


def _defer(
    numbers: Mapping[str, object], scalars: Mapping[str, HistoryBuffer], ledger: Ledger
) -> dict[str, object]:
    """Put a step's numbers into the ledger, by the names of their histories.

    Returns:
        Those that are no tensors, and the first of each name, with which mmengine begins a history.
    """
    rest, histories, values = {}, [], []
    for name, value in numbers.items():
        history = scalars.get(name)
        if isinstance(history, GrowingHistory) and _can_wait(value, values):
            history.reads = ledger.read
            histories.append(history)
            values.append(value)
        else:
            rest[name] = value
    if values:
        ledger.write(histories, values)
    return rest


def _grow(scalars: MutableMapping[str, HistoryBuffer]) -> None:
    for key, history in scalars.items():
        if key.startswith("train/") and not isinstance(history, GrowingHistory):
            scalars[key] = GrowingHistory(history)


def _can_wait(value, others: list[Tensor]) -> bool:
    """Whether an output is a number in a tensor that goes into one with others."""
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        return False
    return not others or value.device == others[0].device
