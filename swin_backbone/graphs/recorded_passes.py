"""Forward and backward pass of one function of tensors, recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ..ops.kept_tables import keeping
from .gathered_parameters import ParameterCopies
from .gradients import Collector, StaticGradients
from .recording import CaptureError, Recorder, why
from .training_state import StandIns, host_generators, unchanged, who_drew

#: Passes before the capture: compilation, choice of algorithms, and one that must not wait.
WARM_UP = 3


class RecordedPasses:
    """What a function gives for tensors of one shape, and the gradients of parameters.

    Args:
        compute: the results, of ``inputs``.
        inputs: tensors that stay where they are; leaves, if they get gradients.
        model: whose parameters get gradients.
        recorder: of the passes.
        strict: whether the rehearsal may tell what makes the host wait.
        learns: whether there is a backward pass.
        copies: of the model's parameters, where their own memory does not stay.

    Attributes:
        values: the results, in the memory that a replay fills.
        live: while passes are recorded, those that depend on what gets gradients.
        trained: for each result, whether it does.
        grads: of those results, in memory that a backward pass reads.
        stand_ins: for the model's parameters.
        used: those of them that get a gradient, in the order in which gradients come.
        owners: the model's parameters in the place of ``used``.
        gradients: where the backward pass leaves gradients.
        replay_forward: runs the recorded pass.
        replay_backward: likewise.

    Raises:
        CaptureError: if the passes cannot be recorded; nothing has changed then.
    """

    def __init__(
        self,
        compute: Callable[[], Sequence[Tensor]],
        inputs: Sequence[Tensor],
        model: nn.Module,
        recorder: Recorder,
        strict: bool,
        learns: bool = True,
        copies: ParameterCopies | None = None,
    ):
        self.inputs, self.learns = list(inputs), learns
        self._compute, self._recorder = compute, recorder
        self.stand_ins = StandIns(model, copies) if learns or copies is not None else None
        self._tables: list = []
        self.live: list[Tensor] = []
        self.values: list[Tensor] = []
        self.trained: list[bool] = []
        device = self.inputs[0].device
        kind, dtype = device.type, torch.get_autocast_dtype(device.type)
        self._autocast = (kind, dtype, torch.is_autocast_enabled(kind))
        with keeping(self._tables), unchanged(model, device):
            self._rehearse(strict)

    def _rehearse(self, strict: bool) -> None:
        """Run passes that count for nothing; learn what the results are, and the order in which
        gradients come."""
        before = host_generators()
        try:
            for index in range(WARM_UP):
                with self._recorder.rehearsal(strict and index == WARM_UP - 1):
                    self._forward()
                    if self.learns:
                        self._rehearse_backward()
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(why(error)) from error
        finally:
            self._let_go()
        drawn = who_drew(before, host_generators(), self.inputs[0].device)
        if drawn is not None:
            raise CaptureError(f"random numbers are drawn by {drawn}, on the host")

    def _let_go(self) -> None:
        self.live, self.values = [], []
        for one in (*self.inputs, *(self.stand_ins.others if self.learns else ())):
            one.grad = None

    def _rehearse_backward(self) -> None:
        order: list[int] = []
        others = [one for one in self.stand_ins.others if one.requires_grad]
        handles = [
            one.register_post_accumulate_grad_hook(lambda found: order.append(id(found)))
            for one in others
        ]
        self.grads = [torch.zeros_like(result) for result in self.live]
        with self.stand_ins.in_place(), self._without_autocast():
            torch.autograd.backward(self.live, self.grads)
        for handle in handles:
            handle.remove()
        for one in others:
            one.grad = None
        place = {number: index for index, number in enumerate(order)}
        used = sorted((one for one in others if id(one) in place), key=lambda one: place[id(one)])
        self.used = used
        self._unused = [one for one in others if id(one) not in place]

    def parameters_in_order(self) -> list[nn.Parameter]:
        """The model's parameters that are trained, those whose gradients come first at first, and
        those without any in this step last."""
        return self._own([*self.used, *self._unused])

    def _own(self, stand_ins: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        own = {
            id(other): own
            for own, other in zip(self.stand_ins.own, self.stand_ins.others, strict=True)
        }
        return [own[id(one)] for one in stand_ins]

    def record(self, gradients: StaticGradients | None) -> None:
        """Record both passes.

        Args:
            gradients: where the backward pass leaves them.

        Raises:
            CaptureError: if they cannot be recorded.
        """
        if self.learns:
            self.gradients = gradients
            others = dict(zip(map(id, self.stand_ins.own), self.stand_ins.others, strict=True))
            self._collector = Collector(gradients, [others[id(p)] for p in gradients.parameters])
            self.owners = self._own(self.used)
        with keeping(self._tables):
            try:
                self.replay_forward = self._recorder.record(self._forward)
                if self.learns:
                    self.replay_backward = self._recorder.record(self._backward)
            except BaseException:
                self._let_go()
                raise

    @contextmanager
    def _as_the_model(self) -> Iterator[None]:
        kind, dtype, enabled = self._autocast
        # Casts that autocast has in store are of weights as they were.
        with ExitStack() as context:
            context.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=False))
            if self.stand_ins is not None:
                context.enter_context(self.stand_ins.in_place())
            if self.learns:
                context.enter_context(torch.enable_grad())
            yield

    def _forward(self) -> None:
        with self._as_the_model():
            found = self._compute()
        self.trained = [one.requires_grad for one in found]
        self.live = [one for one in found if one.requires_grad]
        self.values = [one.detach() for one in found]
        if self.learns and not self.live:
            raise CaptureError("nothing that is computed depends on a parameter that is trained")

    def _without_autocast(self) -> AbstractContextManager:
        """For a backward pass, which is recorded where the forward pass is called, within autocast,
        and is called outside of it by whoever follows torch's rules."""
        return torch.autocast(self._autocast[0], enabled=False)

    def _backward(self) -> None:
        collecting = self._collector.collecting(self.used)
        with self.stand_ins.in_place(), collecting, self._without_autocast():
            torch.autograd.backward(self.live, self.grads)
        self.live = []
