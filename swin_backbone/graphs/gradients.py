"""Gradients of a recorded step: in memory that stays where it is, and averaged over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..ops.torch_internals.tensor_views import copy_all
from .processes import Averaging

#: Elements between the beginnings of gradients: what vectors of loads and stores want.
ALIGNED = 64


class Bucket:
    """Gradients that lie side by side.

    Args:
        parameters: of one dtype, on one device.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        starts, size = [], 0
        for parameter in parameters:
            starts.append(size)
            size += -(-parameter.numel() // ALIGNED) * ALIGNED
        self.flat = torch.zeros(size, dtype=parameters[0].dtype, device=parameters[0].device)
        self.views = [
            _view(self.flat, start, parameter)
            for start, parameter in zip(starts, parameters, strict=True)
        ]


def _view(flat: Tensor, start: int, parameter: Tensor) -> Tensor:
    """As the gradient of ``parameter``, with its strides where it fills its memory."""
    strides = torch.empty_like(parameter, device="meta").stride()
    return flat.as_strided(parameter.shape, strides, start)


class StaticGradients:
    """The place of each parameter's gradient, which recorded backward passes fill.

    Args:
        parameters: that may have gradients, in the order in which these become ready.
        bucket_bytes: gradients that are averaged, and moved, together.
        averaging: over processes; ``None`` for one process.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], bucket_bytes: int, averaging: Averaging | None
    ):
        self.parameters = list(parameters)
        self.averaging = averaging
        self.buckets = [Bucket(group) for group in _groups(self.parameters, bucket_bytes)]
        views = [view for bucket in self.buckets for view in bucket.views]
        self.views = dict(zip(map(id, self.parameters), views, strict=True))
        #: Whether gradients that are there are this process's alone, for want of an average.
        self.is_own = False
        if averaging is not None:  # connections are made before anything is recorded
            for bucket in self.buckets:
                averaging.start(bucket.flat)()

    def bytes_held(self) -> int:
        return sum(bucket.flat.nbytes for bucket in self.buckets)

    def replay(self, run: Callable[[], None], used: Sequence[nn.Parameter]) -> None:
        """Run a recorded backward pass, and add its gradients to those that are there.

        Args:
            run: it.
            used: the parameters that it has gradients of.
        """
        if all(parameter.grad is None for parameter in self.parameters):
            run()
        else:
            before = self._gather()
            run()
            for bucket, earlier in zip(self.buckets, before, strict=True):
                bucket.flat.add_(earlier)
            used = [*used, *(p for p in self.parameters if p.grad is not None)]
        self.is_own = False
        for parameter in used:
            parameter.grad = self.views[id(parameter)]

    def _gather(self) -> list[Tensor]:
        """Gradients that are there, averaged where they were not."""
        for parameter in self.parameters:
            view = self.views[id(parameter)]
            if parameter.grad is None:
                view.zero_()
            elif parameter.grad.data_ptr() != view.data_ptr():
                view.copy_(parameter.grad)
        before = [bucket.flat.clone() for bucket in self.buckets]
        if self.is_own and self.averaging is not None:
            for finish in [self.averaging.start(flat) for flat in before]:
                finish()
        return before


def _groups(parameters: Sequence[Tensor], bucket_bytes: int) -> list[list[Tensor]]:
    groups: list[list[Tensor]] = []
    size = 0
    for parameter in parameters:
        alike = groups and (groups[-1][0].dtype, groups[-1][0].device) == (
            parameter.dtype,
            parameter.device,
        )
        if not alike or size + parameter.nbytes > bucket_bytes:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += parameter.nbytes
    return groups


class Collector:
    """Moves the gradients of one kind of step into their places, a bucket at a time.

    Args:
        gradients: the places.
        stand_ins: for each of their parameters, the one that gradients reach.
    """

    def __init__(self, gradients: StaticGradients, stand_ins: Sequence[nn.Parameter]):
        self.gradients = gradients
        parts = iter(stand_ins)
        self._members = [[next(parts) for _ in bucket.views] for bucket in gradients.buckets]
        self._bucket_of = {
            id(one): index for index, members in enumerate(self._members) for one in members
        }
        self._expected: list[set[int]] = []
        self._moved: set[int] = set()
        self._started: list[Callable[[], None]] = []

    @contextmanager
    def collecting(self, used: Sequence[nn.Parameter]) -> Iterator[None]:
        """Around a backward pass that brings gradients of the stand-ins ``used``."""
        expected = {id(one) for one in used}
        self._expected = [expected.intersection(map(id, members)) for members in self._members]
        self._moved, self._started = set(), []
        handles = [one.register_post_accumulate_grad_hook(self._ready) for one in used]
        try:
            yield
            for index in range(len(self._members)):
                self._move(index)
            for finish in self._started:
                finish()
        finally:
            for handle in handles:
                handle.remove()

    def _ready(self, parameter: Tensor) -> None:
        index = self._bucket_of[id(parameter)]
        self._expected[index].discard(id(parameter))
        if not self._expected[index]:
            self._move(index)

    @torch.no_grad()
    def _move(self, index: int) -> None:
        """Move a bucket that is full, and have it averaged when its turn has come: the order is the
        same in all processes, whichever gradient comes first."""
        if index in self._moved:
            return
        self._moved.add(index)
        bucket, members = self.gradients.buckets[index], self._members[index]
        pairs = list(zip(bucket.views, members, strict=True))
        for view in [view for view, one in pairs if one.grad is None]:
            view.zero_()
        there = [(view, one) for view, one in pairs if one.grad is not None]
        if there:
            copy_all([view for view, _ in there], [one.grad for _, one in there])
        for _, one in there:
            one.grad = None
        averaging = self.gradients.averaging
        while averaging is not None and len(self._started) in self._moved:
            flat = self.gradients.buckets[len(self._started)].flat
            self._started.append(averaging.start(flat))
