"""One training step's losses and gradients, recorded for batches of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..ops.kept_tables import keeping
from ..ops.torch_internals.tensor_views import copy_all
from .gradients import Collector, StaticGradients
from .recording import CaptureError, Recorder, why
from .training_state import StandIns, host_generators, unchanged, who_drew

#: Losses by name, each a tensor or a list of tensors.
Losses = Mapping[str, Tensor | Sequence[Tensor]]
#: Losses of tensors, which are the same ones at each call.
Compute = Callable[[], Losses]
#: Passes before the capture: compilation, choice of algorithms, and one that must not wait.
WARM_UP = 3


class Turns:
    """Whose turn it is: graphs that share memory leave nothing behind for after the next.

    Attributes:
        now: number of forward passes that were replayed.
    """

    def __init__(self):
        self.now = 0


class StepGraph:
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
        self.inputs = list(inputs)
        self._compute, self._recorder, self._turns = compute, recorder, turns
        self._stand_ins = StandIns(model)
        self._tables: list = []
        self._live: list[Tensor] = []
        self._values: list[Tensor] = []
        device = self.inputs[0].device
        #: A sum of losses needs something to depend on, for its backward pass to come here.
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        kind, dtype = device.type, torch.get_autocast_dtype(device.type)
        self._autocast = (kind, dtype, torch.is_autocast_enabled(kind))
        with keeping(self._tables), unchanged(model, device):
            self._rehearse(strict)

    def _rehearse(self, strict: bool) -> None:
        """Run passes that count for nothing; learn what the losses are, and the order in which
        gradients come."""
        before = host_generators()
        try:
            for index in range(WARM_UP):
                with self._recorder.rehearsal(strict and index == WARM_UP - 1):
                    self._forward()
                    self._rehearse_backward()
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(why(error)) from error
        finally:
            self._live, self._values = [], []
            for one in self._stand_ins.others:
                one.grad = None
        drawn = who_drew(before, host_generators(), self.inputs[0].device)
        if drawn is not None:
            raise CaptureError(f"the losses draw random numbers by {drawn}, on the host")

    def _rehearse_backward(self) -> None:
        order: list[int] = []
        others = [one for one in self._stand_ins.others if one.requires_grad]
        handles = [
            one.register_post_accumulate_grad_hook(lambda found: order.append(id(found)))
            for one in others
        ]
        self._grads = [torch.zeros_like(loss) for loss in self._live]
        with self._stand_ins.in_place():
            torch.autograd.backward(self._live, self._grads)
        for handle in handles:
            handle.remove()
        for one in others:
            one.grad = None
        place = {number: index for index, number in enumerate(order)}
        used = sorted((one for one in others if id(one) in place), key=lambda one: place[id(one)])
        self._used = used
        self._unused = [one for one in others if id(one) not in place]

    def parameters_in_order(self) -> list[nn.Parameter]:
        """The model's parameters that are trained, those whose gradients come first at first, and
        those without any in this step last."""
        return self._own([*self._used, *self._unused])

    def _own(self, stand_ins: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        own = {
            id(other): own
            for own, other in zip(self._stand_ins.own, self._stand_ins.others, strict=True)
        }
        return [own[id(one)] for one in stand_ins]

    def record(self, gradients: StaticGradients) -> None:
        """Record both passes.

        Args:
            gradients: where the backward pass leaves them.

        Raises:
            CaptureError: if they cannot be recorded.
        """
        self._gradients = gradients
        others = dict(zip(map(id, self._stand_ins.own), self._stand_ins.others, strict=True))
        self._collector = Collector(gradients, [others[id(p)] for p in gradients.parameters])
        self._owners = self._own(self._used)
        with keeping(self._tables):
            try:
                self._replay_forward = self._recorder.record(self._forward)
                self._replay_backward = self._recorder.record(self._backward)
            except BaseException:
                self._live, self._values = [], []
                for one in self._stand_ins.others:
                    one.grad = None
                raise

    @contextmanager
    def _as_the_model(self) -> Iterator[None]:
        kind, dtype, enabled = self._autocast
        # Casts that autocast has in store are of weights as they were.
        cast = torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False)
        with self._stand_ins.in_place(), torch.enable_grad(), cast:
            yield

    def _forward(self) -> None:
        with self._as_the_model():
            losses = self._compute()
        self._names = {name: _length(name, value) for name, value in losses.items()}
        found = [one for value in losses.values() for one in _listed(value)]
        self._trained = [one.requires_grad for one in found]
        self._live = [one for one in found if one.requires_grad]
        self._values = [one.detach() for one in found]
        if not self._live:
            raise CaptureError("no loss depends on a parameter")

    def _backward(self) -> None:
        with self._stand_ins.in_place(), self._collector.collecting(self._used):
            torch.autograd.backward(self._live, self._grads)
        self._live = []

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
        self._replay_forward()
        self._turns.now += 1
        return self._turns.now, [value.clone() for value in self._values]

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
        of_live = [grad for grad, trained in zip(grads, self._trained, strict=True) if trained]
        copy_all(self._grads, of_live)
        self._gradients.replay(self._replay_backward, self._owners)

    def trained(self) -> list[bool]:
        """For each loss, whether it depends on parameters."""
        return self._trained


class _Replayed(torch.autograd.Function):
    """Losses from a graph, as autograd sees them."""

    @staticmethod
    def forward(ctx, anchor: Tensor, step: StepGraph) -> tuple[Tensor, ...]:
        ctx.step = step
        ctx.turn, values = step.run_forward()
        pairs = zip(values, step.trained(), strict=True)
        ctx.mark_non_differentiable(*(value for value, trained in pairs if not trained))
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        ctx.step.run_backward(ctx.turn, grads)
        return None, None


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
