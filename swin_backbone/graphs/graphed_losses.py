"""Losses by graphs: which batches get one, and what becomes of all others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from .gradients import StaticGradients
from .processes import Agreement, Averaging
from .recording import CaptureError, Recorder, starts_kernels
from .refusals import why_not_recorded
from .step_graph import Compute, StepGraph, Turns
from .training_state import Signature

#: A model that changes more often than this runs as it is.
MOST_CHANGES = 8


class GraphedLosses:
    """Losses of a model, each shape of batch recorded once and then replayed.

    Args:
        model: all of its parameters are plain and lie on one device.
        recorder: of the graphs.
        most: shapes that get a graph; batches of others run as they are.
        bucket_bytes: gradients that are moved, and averaged, together.
        averaging: over the processes of a distributed run.
        agreement: whether all processes do the same; ``None`` for one process.
        say: gets each message once.

    Attributes:
        reason: why there are no graphs, or ``None``.
    """

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        most: int,
        bucket_bytes: int,
        averaging: Averaging | None,
        agreement: Agreement | None,
        say: Callable[[str], None],
    ):
        self.model, self.recorder, self.most = model, recorder, most
        self.bucket_bytes, self.averaging, self.agreement = bucket_bytes, averaging, agreement
        self.reason: str | None = None
        self._say, self._said = say, set()
        self._is_own = False
        self._signature = Signature(model)
        self._changes = 0
        self._forget()

    def _forget(self) -> None:
        self._steps: dict[Hashable, StepGraph] = {}
        self._gradients: StaticGradients | None = None
        self._turns = Turns()

    @property
    def shapes(self) -> int:
        """How many shapes have a graph."""
        return len(self._steps)

    def say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._say(message)

    def losses(
        self,
        batch: Sequence[Tensor],
        bind: Callable[[Sequence[Tensor]], Compute],
        kind: Hashable = (),
        averages: bool = True,
    ) -> dict | None:
        """Losses of a batch, by a graph.

        Args:
            batch: its tensors.
            bind: gives the function that computes losses of other tensors of the same shapes.
            kind: what else decides what is computed.
            averages: whether this step's gradients are to be averaged over processes; where they
                are not, as gradients accumulate, those of a graph are all the same.

        Returns:
            Losses by name; ``None`` where the caller has to compute them.
        """
        if self.reason is not None or not starts_kernels():
            return None
        self._look_at_the_model()
        if self.reason is not None:
            return None
        key = (kind, _autocast(batch), tuple(map(_shape, batch)))
        plan = "replay" if key in self._steps else "record"
        if plan == "record" and self.shapes >= self.most:
            plan = "eager"
            self.say_once(
                f"{self.most} shapes of batches have a CUDA graph, and further ones run without"
            )
        if not self._agree(plan, key) or plan == "eager":
            self._ran_without(averages)
            return None
        if plan == "record" and not self._record(key, batch, bind):
            self._ran_without(averages)
            return None
        return self._steps[key].losses(batch)

    def refuse_batch(self, reason: str, averages: bool = True) -> None:
        """Take note of a batch that cannot have a graph."""
        if self.reason is None:
            self.say_once(f"batches run without a CUDA graph where {reason}")
            self._agree("eager", None)
            self._ran_without(averages)

    def _ran_without(self, averages: bool) -> None:
        """A step without a graph averages all gradients that are there, or adds to them its own."""
        self._is_own = not averages
        if self._gradients is not None:
            self._gradients.is_own = self._is_own

    def release(self) -> None:
        """Let go of all graphs and their memory."""
        self._forget()

    def stop(self, reason: str) -> None:
        """Go on without graphs, for good."""
        self.reason = reason
        self.release()
        self.say_once(f"training goes on without CUDA graphs: {reason}")

    def _agree(self, plan: str, key: Hashable) -> bool:
        if self.agreement is None or self.agreement((plan, key)):
            return True
        self.say_once(
            "batches run without a CUDA graph where processes have batches of different shapes"
        )
        return False

    def _look_at_the_model(self) -> None:
        if not self._signature.has_changed() or not self._steps:
            return
        self._changes += 1
        reason = why_not_recorded(self.model)
        if reason is None and self._changes > MOST_CHANGES:
            reason = "parameters, or which modules are in training mode, change again and again"
        if reason is None:
            self.release()
        else:
            self.stop(reason)

    def _record(self, key: Hashable, batch: Sequence[Tensor], bind) -> bool:
        """Record a shape in all processes, or in none."""
        step, reason = None, None
        try:
            step = self._make(batch, bind)
        except CaptureError as error:
            reason = str(error)
        agreed = self.agreement is None or self.agreement(reason is None)
        if reason is None and agreed:
            self._steps[key] = step
            self.say_once(self._report())
            return True
        reason = reason or "another process could not record its step"
        if self._steps:  # which are right, and stay
            self.most = self.shapes
            self.say_once(f"batches of further shapes run without a CUDA graph: {reason}")
        else:
            self.stop(reason)
        return False

    def _make(self, batch: Sequence[Tensor], bind) -> StepGraph:
        inputs = [t.detach().clone(memory_format=torch.contiguous_format) for t in batch]
        synchronized = any(isinstance(m, nn.SyncBatchNorm) for m in self.model.modules())
        # Outside of a capture, SyncBatchNorm itself makes the host wait.
        step = StepGraph(
            bind(inputs), inputs, self.model, self.recorder, self._turns, not synchronized
        )
        if self._gradients is None:
            own = list(self.model.parameters())
            numbers = {id(parameter): number for number, parameter in enumerate(own)}
            order = [numbers[id(parameter)] for parameter in step.parameters_in_order()]
            if self.agreement is not None:  # buckets are the same ones everywhere
                order = self.agreement.share(order)
            parameters = [own[number] for number in order]
            self._gradients = StaticGradients(parameters, self.bucket_bytes, self.averaging)
            self._gradients.is_own = self._is_own
        step.record(self._gradients)
        return step

    def _report(self) -> str:
        held = self.recorder.bytes_held() + self._gradients.bytes_held()
        return (
            f"a CUDA graph replays the training step of batch shape number {self.shapes}; graphs "
            f"hold {held / 2**20:.0f} MiB in all, gradients among them"
        )


def _shape(tensor: Tensor) -> tuple:
    return tuple(tensor.shape), tensor.dtype


def _autocast(batch: Sequence[Tensor]) -> tuple:
    kind = batch[0].device.type
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
