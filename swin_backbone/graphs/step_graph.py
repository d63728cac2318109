"""One training step's losses and gradients, recorded for batches of one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..ops.torch_internals.tensor_views import copy_all
from .recorded_passes import RecordedPasses
from .recording import CaptureError, Recorder

#: Losses by name, each a tensor or a list of tensors.
Losses = Mapping[str, Tensor | Sequence[Tensor]]
#: Losses of tensors, which are the same ones at each call.
Compute = Callable[[], Losses]


class Turns:
    """Whose turn it is: graphs that share memory leave nothing behind for after the next.

    Attributes:
        now: number of forward passes that were replayed.
    """

    def __init__(self):
        self.now = 0


class StepGraph(RecordedPasses):
    """Forward and backward pass of one shape of batch.

    Args:
        compute: the losses of ``inputs``.
        inputs: tensors that stay where they are; each step is copied into them.
        model: whose parameters get gradients.
        recorder: of the passes.
        turns: of all graphs that share the recorder.
        strict: whether the rehearsal may tell what makes the host wait.

    Raises:
        CaptureError: if the step cannot be recorded; nothing has changed then.
    """

    def __init__(
        self,
        compute: Compute,
        inputs: Sequence[Tensor],
        model: nn.Module,
        recorder: Recorder,
        turns: Turns,
        strict: bool,
    ):
        self._turns = turns
        #: A sum of losses needs something to depend on, for its backward pass to come here.
        self._anchor = torch.zeros((), device=inputs[0].device, requires_grad=True)
        self._names: dict[str, int | None] = {}
        super().__init__(partial(_in_a_row, compute, self._names), inputs, model, recorder, strict)

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor | list[Tensor]]:
        """Losses of a batch, whose backward pass fills the model's gradients.

        Args:
            batch: of the shapes of ``inputs``.
        """
        copy_all(self.inputs, batch)
        found = iter(_Replayed.apply(self._anchor, self))
        return {
            name: next(found) if length is None else [next(found) for _ in range(length)]
            for name, length in self._names.items()
        }

    def run_forward(self) -> tuple[int, list[Tensor]]:
        """Replay the forward pass: whose turn it is now, and the values of all losses."""
        self.replay_forward()
        self._turns.now += 1
        return self._turns.now, [value.clone() for value in self.values]

    def run_backward(self, turn: int, grads: Sequence[Tensor]) -> None:
        """Replay the backward pass of the forward pass that was replayed in ``turn``.

        Args:
            turn: of :meth:`run_forward`.
            grads: of all losses.

        Raises:
            RuntimeError: if another forward pass has been replayed, or this one's backward pass.
        """
        if turn != self._turns.now:
            raise RuntimeError(
                "these losses come from a CUDA graph whose memory another pass has used since: "
                "call backward before the next forward pass, and once; or train without graphs"
            )
        self._turns.now += 1
        of_live = [grad for grad, trained in zip(grads, self.trained, strict=True) if trained]
        copy_all(self.grads, of_live)
        self.gradients.replay(self.replay_backward, self.owners)


class _Replayed(torch.autograd.Function):
    """Losses from a graph, as autograd sees them."""

    @staticmethod
    def forward(ctx, anchor: Tensor, step: StepGraph) -> tuple[Tensor, ...]:
        ctx.step = step
        ctx.turn, values = step.run_forward()
        pairs = zip(values, step.trained, strict=True)
        ctx.mark_non_differentiable(*(value for value, trained in pairs if not trained))
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        ctx.step.run_backward(ctx.turn, grads)
        return None, None


def _in_a_row(compute: Compute, names: dict[str, int | None]) -> list[Tensor]:
    """All losses; ``names`` gets how many each name has. No method: what refers to itself is let go
    when Python's garbage collector comes, and a graph's memory with it."""
    losses = compute()
    names.clear()
    names.update((name, _length(name, value)) for name, value in losses.items())
    found = [one for value in losses.values() for one in _listed(value)]
    if not any(one.requires_grad for one in found):
        raise CaptureError("no loss depends on a parameter")
    return found


def _listed(value: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [value] if isinstance(value, Tensor) else value


def _length(name: str, value: object) -> int | None:
    """Of a list of losses; ``None`` for one that is a tensor.

    Raises:
        CaptureError: if it is something else, which a graph would never change.
    """
    if isinstance(value, Tensor):
        return None
    if isinstance(value, list | tuple) and all(isinstance(one, Tensor) for one in value):
        return len(value)
    raise CaptureError(f"loss {name!r} is a {type(value).__name__}, not a tensor")
