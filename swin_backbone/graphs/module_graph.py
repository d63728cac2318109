"""Forward and backward pass of a part of a model, recorded for inputs of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..ops.torch_internals.tensor_views import copy_all
from .gathered_parameters import ParameterCopies
from .gradients import StaticGradients
from .recorded_passes import RecordedPasses
from .recording import CaptureError, Recorder
from .structures import Structure, put_together, take_apart


class Pass:
    """A forward pass that was replayed: what it left for its backward pass is in the graphs' memory
    until that has come, or until nobody can ask for it.

    Attributes:
        is_done: whether its backward pass has come.
    """

    def __init__(self):
        self.is_done = False


class ModuleGraph(RecordedPasses):
    """What a function of tensors returns, by a graph, and its gradients by another.

    Args:
        function: takes what ``structure`` says.
        examples: tensors of the shapes, strides and dtypes that it gets.
        structure: of its arguments, which are a tuple and a dictionary.
        model: the modules that it runs.
        recorder: of the graphs.
        learns: whether there is a backward pass.
        copies: of the modules' parameters, where their own memory does not stay.

    Raises:
        CaptureError: if it cannot be recorded.
    """

    def __init__(
        self,
        function: Callable,
        examples: Sequence[Tensor],
        structure: Structure,
        model: nn.Module,
        recorder: Recorder,
        learns: bool,
        copies: ParameterCopies | None = None,
    ):
        self._copies = copies
        inputs = [
            one.detach().clone().requires_grad_(learns and one.requires_grad) for one in examples
        ]

        #: The structure of the results. ``compute`` does not refer to this object, whose memory
        #: would be let go no sooner than the garbage collector comes.
        results = self._results = [None]

        def compute() -> list[Tensor]:
            args, kwargs = put_together(structure, inputs)
            try:
                found, results[0] = take_apart(function(*args, **kwargs))
            except ValueError as error:
                raise CaptureError(f"of the result: {error}") from error
            return found

        #: For each result that gets a gradient, what gets one from it.
        self._reached: list[set[int]] = []
        self._learned_inputs = [one for one in inputs if one.requires_grad]
        self._input_grads = [torch.zeros_like(one) for one in self._learned_inputs]
        super().__init__(compute, inputs, model, recorder, True, learns, copies)

    def _rehearse_backward(self) -> None:
        known = {*map(id, self.stand_ins.others), *map(id, self.inputs)}
        if any(id(leaf) not in known for result in self.live for leaf in _leaves(result)):
            raise CaptureError("it reads parameters that are none of its own modules'")
        if not self._reached:
            self._reached = [self._reached_by(index) for index in range(len(self.live))]
            self._forward()
        super()._rehearse_backward()

    def _reached_by(self, index: int) -> set[int]:
        """What has a gradient where only one of the results does. Functions with several results
        decide that themselves, and so it takes a backward pass to find out."""
        self._forward()
        result = self.live[index]
        with self.stand_ins.in_place(), self._without_autocast():
            torch.autograd.backward(result, torch.zeros_like(result))
        leaves = [*self.stand_ins.others, *self.inputs]
        reached = {id(one) for one in leaves if one.grad is not None}
        for one in leaves:
            one.grad = None
        return reached

    def record(self, gradients: StaticGradients | None) -> None:
        """As :meth:`RecordedPasses.record`."""
        super().record(gradients)
        if not self.learns:
            return
        bucket_of = {
            id(view): number for number, b in enumerate(gradients.buckets) for view in b.views
        }
        views = [gradients.views[id(owner)] for owner in self.owners]
        self._places = [
            (bucket_of[id(view)], view.shape, view.stride(), view.storage_offset())
            for view in views
        ]

    def _backward(self) -> None:
        super()._backward()
        for place, one in zip(self._input_grads, self._learned_inputs, strict=True):
            if one.grad is not None:
                place.copy_(one.grad)
            one.grad = None

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[object, Pass | None]:
        """What the function returns for these tensors, in memory of its own, and the pass that
        waits for gradients."""
        if not self.learns:
            return put_together(self._results[0], self.run_forward(tensors)), None
        waiting = Pass()
        found = _Replayed.apply(self, waiting, *tensors, *self.owners)
        return put_together(self._results[0], found), waiting

    def run_forward(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Replay the forward pass."""
        copy_all(self.inputs, tensors)
        if self._copies is not None:
            self._copies.refresh()
        self.replay_forward()
        outputs = [torch.empty_like(value) for value in self.values]
        copy_all(outputs, self.values)
        return outputs

    def run_backward(self, waiting: Pass, grads: Sequence[Tensor | None]) -> Iterator:
        """Replay the backward pass.

        Args:
            waiting: of the forward pass.
            grads: of all results.

        Returns:
            Gradients of all inputs, then those of the parameters, in memory of their own.

        Raises:
            RuntimeError: if this pass's backward pass was replayed before.
        """
        if waiting.is_done:
            raise RuntimeError(
                "a CUDA graph has computed these gradients already, and what it needs for them is "
                "gone: call backward once for what one call of a graphed backbone gave"
            )
        waiting.is_done = True
        of_live = [grad for grad, trained in zip(grads, self.trained, strict=True) if trained]
        for place, grad in zip(self.grads, of_live, strict=True):
            if grad is None:
                place.zero_()
        there = [pair for pair in zip(self.grads, of_live, strict=True) if pair[1] is not None]
        copy_all(*map(list, zip(*there, strict=True)))
        self.replay_backward()
        given = zip(of_live, self._reached, strict=True)
        reached = set().union(*(leaves for grad, leaves in given if grad is not None))
        yield from self._gradients_of_inputs(reached)
        flats = [bucket.flat.clone() for bucket in self.gradients.buckets]
        for one, (bucket, *place) in zip(self.used, self._places, strict=True):
            yield flats[bucket].as_strided(*place) if id(one) in reached else None

    def _gradients_of_inputs(self, reached: set[int]) -> Iterator[Tensor | None]:
        grads = dict(zip(map(id, self._learned_inputs), self._input_grads, strict=True))
        for one in self.inputs:
            grad = grads.get(id(one)) if id(one) in reached else None
            yield None if grad is None else grad.clone()


class _Replayed(torch.autograd.Function):
    """Results from a graph, as autograd sees them."""

    @staticmethod
    def forward(ctx, graph: ModuleGraph, waiting: Pass, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.graph, ctx.waiting = graph, waiting
        ctx.set_materialize_grads(False)
        values = graph.run_forward(tensors[: len(graph.inputs)])
        pairs = zip(values, graph.trained, strict=True)
        ctx.mark_non_differentiable(*(value for value, trained in pairs if not trained))
        return tuple(values)

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "gradients from a CUDA graph have no derivative: for create_graph=True take the "
                "graphs off the model (revert)"
            )
        return None, None, *ctx.graph.run_backward(ctx.waiting, grads)


def _leaves(result: Tensor) -> set[Tensor]:
    """Leaves of autograd's graph that a tensor depends on, as far as the graph shows them."""
    if result.grad_fn is None:
        return {result}
    found, seen, left = set(), set(), [result.grad_fn]
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        left += [parent for parent, _ in node.next_functions if parent is not None]
    return found
