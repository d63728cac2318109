"""Weights in the compute dtype: those of all blocks of an encoder cast at once.

Autocast casts each weight when it is used. An encoder's first block casts what all of its blocks
used when they last ran, and each takes its own once, if its weights still are what was cast.
Anything else casts for itself: a block that is run alone, or again in a backward pass.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import LinearParameters, compute_dtype
from ...ops.torch_internals.tensor_views import copy_all, version_of, views_like
from ...ops.weight_copies import copies_in_a_graph
from ..rewrite import Undo

_PLACE = "_swin_backbone_place"
Tensors = tuple[Tensor, ...]


class Used(NamedTuple):
    """Parameters of a block.

    Attributes:
        parameters: in the order in which their copies lie.
        shapes: tensors of the shapes of the copies, one of which may be of several parameters.
    """

    parameters: Tensors
    shapes: Tensors


class _Pass(threading.local):
    """What one thread knows of its latest pass through the blocks of an encoder."""

    def __init__(self):
        self.used: dict[int, Used] = {}
        self.waiting: dict[int, tuple] = {}


class Fellows:
    """The blocks of one encoder; each is known by its number, in the order of its modules."""

    def __init__(self):
        self._pass = _Pass()

    def __deepcopy__(self, memo) -> Fellows:
        return Fellows()  # of the copied blocks, whose weights are others

    def copies(self, number: int, used: Used, dtype: torch.dtype) -> Sequence[Tensor]:
        """Copies of what block ``number`` uses; of others', too, if it is the first."""
        now = self._pass
        known = now.used.get(number)
        now.used[number] = used
        if number == min(now.used):
            found = _cast(now.used.values(), dtype)
            each = dict(zip(now.used, found, strict=True))
            own = each.pop(number)
            now.waiting = {n: (_state(now.used[n], dtype), copies) for n, copies in each.items()}
            return own
        state, copies = now.waiting.pop(number, (None, ()))
        # Its parameters are compared by identity, which holds as long as they are kept here.
        same = known is not None and list(map(id, known[0])) == list(map(id, used[0]))
        if same and state is not None and state == _state(used, dtype):
            return copies
        return _cast([used], dtype)[0]


def _cast(all_used: Iterable[Used], dtype: torch.dtype) -> list[Sequence[Tensor]]:
    """Copies for each block, in its shapes; of weights on one device at once."""
    found, alike = {}, {}
    for number, used in enumerate(all_used):
        first = used.parameters[0]
        alike.setdefault((first.device, first.dtype), []).append((number, used))
    for group in alike.values():
        parameters = [p for _, used in group for p in used.parameters]
        shapes = [shape for _, used in group for shape in used.shapes]
        with torch.no_grad():
            flat = parameters[0].new_empty(sum(p.numel() for p in parameters), dtype=dtype)
            copy_all(views_like(flat, parameters), parameters)
            views = iter(views_like(flat, shapes))
        found |= {number: [next(views) for _ in used.shapes] for number, used in group}
    return [found[number] for number in sorted(found)]


def _state(used: Used, dtype: torch.dtype) -> tuple | None:
    """What changes when numbers do; and whether a graph is captured, which must cast its own.
    ``None`` where nobody can say."""
    versions = [version_of(parameter) for parameter in used.parameters]
    if None in versions:
        return None
    places = [parameter.data_ptr() for parameter in used.parameters]
    captured = used.parameters[0].is_cuda and torch.cuda.is_current_stream_capturing()
    return dtype, captured, versions, places


class _Place(NamedTuple):
    fellows: Fellows
    number: int

    def __deepcopy__(self, memo) -> _Place:
        return _Place(copy.deepcopy(self.fellows, memo), self.number)

    def __reduce__(self):
        return type(None), ()  # a pickled model has no methods of ours, nor needs this package


def bring_together(blocks: Sequence[nn.Module]) -> Undo:
    """Let blocks of one encoder cast their weights together."""
    fellows = Fellows()
    for number, block in enumerate(blocks):
        block.__dict__[_PLACE] = _Place(fellows, number)

    def undo() -> None:
        for block in blocks:
            if getattr(block.__dict__.get(_PLACE), "fellows", None) is fellows:
                del block.__dict__[_PLACE]

    return undo


class Cast(NamedTuple):
    """Copies of a block's weights, as operations look them up: by the parameter.

    Attributes:
        projection: to queries, keys and values as one layer, which of three has gradients but,
            unless it is compiled, no numbers of its own.
        dtype: of the copies.
        pairs: parameters, and their copies.
    """

    projection: LinearParameters
    dtype: torch.dtype
    pairs: list[tuple[Tensor, Tensor]]

    def find(self, weight: Tensor | None) -> Tensor | None:
        """As :meth:`swin_backbone.ops.LowPrecisionCopies.find`."""
        for known, low in self.pairs:
            if known is weight:
                return low
        return None


def cast_weights(
    block: nn.Module,
    x: Tensor,
    projections: Sequence[LinearParameters],
    others: Sequence[LinearParameters],
) -> Cast | None:
    """The weights of a block whose kernels compute in less than their precision.

    Args:
        block: of an encoder.
        x: what it gets.
        projections: to queries, keys and values, one layer or three.
        others: linear layers whose weights, but not biases, are wanted in the compute dtype.

    Returns:
        ``None`` where nothing is to be cast, or not so.
    """
    dtype = compute_dtype(x)
    weights = [layer.weight for layer in projections]
    biases = [layer.bias for layer in projections if layer.bias is not None]
    wanted = (*weights, *biases, *(layer.weight for layer in others))
    if len(biases) not in (0, len(weights)):
        return None
    first = wanted[0]
    for weight in wanted:
        alike = type(weight) is nn.Parameter and weight.dtype == first.dtype != dtype
        if not alike or weight.device != first.device:
            return None
    compiled = torch.compiler.is_compiling()
    together = _below_each_other if compiled else _stand_ins
    joint = LinearParameters(weights[0], biases[0] if biases else None)
    if len(weights) > 1:
        parts = together(len(weights), *weights, *biases)
        joint = LinearParameters(parts[0], parts[1] if biases else None)
    shapes = (*joint[: 2 if biases else 1], *(layer.weight for layer in others))
    place = block.__dict__.get(_PLACE)
    if compiled:
        # A graph cannot leave copies to other blocks, nor be sure of what was cast before it.
        copies = copies_in_a_graph(wanted, dtype, shapes)
    elif place is None:
        copies = _cast([Used(wanted, shapes)], dtype)[0]
    else:
        copies = place.fellows.copies(place.number, Used(wanted, shapes), dtype)
    return Cast(joint, dtype, list(zip(shapes, copies, strict=True)))


def _below_each_other(count: int, *parts: Tensor) -> Tensors:
    """Each ``count`` parts as one tensor, which passes gradients on to them."""
    return tuple(torch.cat(parts[i : i + count]) for i in range(0, len(parts), count))


def _stand_ins(count: int, *parts: Tensor) -> Tensors:
    if torch.is_grad_enabled():
        return _StandIn.apply(count, *parts)
    return _shapes(count, *parts)


def _shapes(count: int, *parts: Tensor) -> Tensors:
    """For each ``count`` parts a tensor as they are one below the other, without any numbers."""
    empty = parts[0].new_empty(())
    groups = [parts[i : i + count] for i in range(0, len(parts), count)]
    return tuple(
        empty.expand(sum(part.shape[0] for part in group), *group[0].shape[1:]) for group in groups
    )


class _StandIn(torch.autograd.Function):
    """Stands for several parameters, one below the other: it has their shape and passes gradients
    on to them. It has no numbers; operations read those of the copies."""

    @staticmethod
    def forward(ctx, count: int, *parts: Tensor) -> Tensors:
        ctx.rows = [
            [part.shape[0] for part in parts[i : i + count]] for i in range(0, len(parts), count)
        ]
        ctx.set_materialize_grads(False)
        return _shapes(count, *parts)

    @staticmethod
    def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = [None]
        for gradient, rows in zip(gradients, ctx.rows, strict=True):
            found += [None] * len(rows) if gradient is None else gradient.split(rows)
        return tuple(found)
