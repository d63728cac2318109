"""Features of a detector by graphs: backbone and neck, forward and backward, for each size.

What follows, proposals, targets and losses, has other shapes in each step and runs as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import MethodType

import torch
from torch import Tensor, nn

from .graphed_losses import GraphedLosses
from .predictions import METHODS
from .recording import CudaRecorder, Recorder
from .refusals import why_not_recorded

LOG = logging.getLogger(__name__)
METHOD = METHODS[1]
#: MiB of gradients that lie side by side.
BUCKET_BYTES = 25 * 2**20


class GraphedFeatures:
    """What :func:`graph_features` did to a model, and the way back.

    Attributes:
        reason: why there are no graphs, or ``None``.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[nn.Module],
        recorder: Recorder | None,
        most: int,
        say: Callable[[str], None],
    ):
        self.model, self.recorder = model, recorder
        self._stock = getattr(model, METHOD)
        self._had = model.__dict__.get(METHOD)
        dense = nn.ModuleList(parts)
        self._graphs = GraphedLosses(dense, recorder, most, BUCKET_BYTES, None, None, say)
        setattr(model, METHOD, MethodType(_by(self), model))

    @property
    def reason(self) -> str | None:
        return self._graphs.reason

    @property
    def shapes(self) -> int:
        """How many shapes have a graph."""
        return self._graphs.shapes

    def stop(self, reason: str) -> None:
        """Go on without graphs, for good."""
        self._graphs.stop(reason)

    def revert(self) -> None:
        """Give the model its own method again, and the graphs' memory back."""
        own = self.model.__dict__
        if getattr(own.get(METHOD), "graphs", None) is self:
            del own[METHOD]
            if self._had is not None:
                own[METHOD] = self._had
        self._graphs.release()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The model's features, by a graph where it trains."""
        maps = None
        if self.model.training and torch.is_grad_enabled() and not hasattr(images, "valid_sizes"):
            maps = self._graphs.losses([images], self._bind)
        return self._stock(images) if maps is None else tuple(maps.values())

    def _bind(self, tensors: Sequence[Tensor]):
        return lambda: {str(i): one for i, one in enumerate(self._stock(tensors[0]))}


def _by(graphs: GraphedFeatures):
    """A method of the model, which a copy of the model takes over without the graphs."""

    def method(model: nn.Module, *arguments, **options):
        if model is not graphs.model or len(arguments) != 1 or options:
            return getattr(type(model), METHOD)(model, *arguments, **options)
        return graphs(*arguments)

    method.graphs = graphs
    return method


def graph_features(
    model: nn.Module,
    most_shapes: int = 4,
    recorder: Recorder | None = None,
    say: Callable[[str], None] = LOG.info,
) -> GraphedFeatures:
    """Replay a detector's backbone and neck as CUDA graphs in training, forward and backward.

        graphs = swin_backbone.graph_features(model)   # after swin_backbone.accelerate(model)
        graphs.revert()

    Each shape of batch is captured when it first comes. Between two forward passes there must be
    the first one's backward pass, which adds gradients to those that are there. Where nothing can
    be captured, training goes on as before. For one process: with ``DistributedDataParallel``
    gradients would not be averaged.

    Args:
        model: a detector of mmdet, on a GPU: its ``extract_feat`` is its ``backbone`` and ``neck``.
        most_shapes: batches of so many shapes get a graph; others run as ever.
        recorder: of the graphs; by default CUDA's.
        say: gets each message, once.

    Returns:
        What takes it back, with the reason if nothing can be captured.

    Raises:
        TypeError: if ``model`` is no module with ``extract_feat`` and a ``backbone``.
        ValueError: if ``most_shapes`` is below 1.
    """
    if not isinstance(getattr(model, "backbone", None), nn.Module) or not hasattr(model, METHOD):
        raise TypeError(
            f"model must be a detector of mmdet, with a backbone and {METHOD}, "
            f"got {type(model).__name__}"
        )
    if isinstance(most_shapes, bool) or not isinstance(most_shapes, int) or most_shapes < 1:
        raise ValueError(f"most_shapes must be an integer of at least 1, got {most_shapes!r}")
    parts = [getattr(model, name, None) for name in ("backbone", "neck")]
    parts = [part for part in parts if isinstance(part, nn.Module)]
    reason = why_not_recorded(nn.ModuleList(parts))
    device = next(model.parameters()).device
    if reason is None and recorder is None:
        if device.type == "cuda":
            recorder = CudaRecorder(device)
        else:
            reason = f"the model is on a {device.type}, and graphs are CUDA's"
    graphs = GraphedFeatures(model, parts, recorder, most_shapes, say)
    if reason is not None:
        graphs.stop(reason)
    return graphs
