"""Train a run's segmentor by CUDA graphs: one line of a config."""

from __future__ import annotations

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..acceleration.rewrite import imported, replace_methods
from ..graphs import (
    Agreement,
    Averaging,
    CudaRecorder,
    GraphedLosses,
    GraphedPredictions,
    Recorder,
    graph_predictions,
)
from ..graphs.refusals import why_not_averaged, why_not_recorded
from .batches import put_together, take_apart
from .gradient_compression import compressed_dtype


@HOOKS.register_module()
class CudaGraphHook(Hook):
    """Replay forward pass, losses and backward pass of a segmentor as CUDA graphs.

        custom_hooks = [dict(type="CudaGraphHook")]

    Each shape of batch is captured once, when it first comes. Where that is not possible, the log
    says why, once, and training goes on as it would without this hook.

    Args:
        most_shapes: shapes of batches that get a graph; others run without.
        bucket_mb: MiB of gradients that processes average together, as the backward pass goes on.
        predictions: whether backbone and head are replayed in predictions, too, for up to twice as
            many shapes (:func:`swin_backbone.graph_predictions`).
    """

    priority = "LOW"

    def __init__(self, most_shapes: int = 4, bucket_mb: float = 25, predictions: bool = True):
        for name, value, kinds in (
            ("most_shapes", most_shapes, int),
            ("bucket_mb", bucket_mb, int | float),
        ):
            if isinstance(value, bool) or not isinstance(value, kinds) or value <= 0:
                kind = "an integer" if kinds is int else "a number"
                raise ValueError(f"{name} must be {kind} above 0, got {value!r}")
        if not isinstance(predictions, bool):
            raise TypeError(f"predictions must be True or False, got {predictions!r}")
        self.most_shapes, self.bucket_bytes = most_shapes, int(bucket_mb * 2**20)
        self.predictions = predictions
        self.graphs: GraphedLosses | None = None
        self.predicting: GraphedPredictions | None = None
        self._undo = self._refused = None

    def recorder(self, device: torch.device) -> Recorder | str:
        """What records steps on this device, or why nothing does."""
        if device.type != "cuda":
            return f"the model is on a {device.type}, and graphs are CUDA's"
        return CudaRecorder(device)

    def before_train(self, runner) -> None:
        """Give the model a ``forward`` that replays graphs; weights have been loaded by now."""
        found = self._prepare(runner.model)
        if isinstance(found, str):
            self._refuse(found)
            return
        self.graphs = found
        self._undo = replace_methods(runner.model, {"forward": _forward_by(found)})

    def after_train(self, runner) -> None:
        """Give the model its own ``forward`` again, and the graphs' memory back."""
        if self._undo is not None:
            self._undo()
            self.graphs.release()
            self._undo = self.graphs = None

    def before_run(self, runner) -> None:
        """Have predictions replayed, in validation, in tests and between them."""
        model = _that_predicts(runner.model)
        if not self.predictions or model is None:
            return
        recorder = self.recorder(next(model.parameters()).device)
        if isinstance(recorder, str):
            self._refuse(recorder)
        else:
            self.predicting = graph_predictions(model, 2 * self.most_shapes, recorder, _say)

    def after_run(self, runner) -> None:
        """Give the model its own predictions again."""
        if self.predicting is not None:
            self.predicting.revert()
            self.predicting = None

    def _refuse(self, reason: str) -> None:
        if reason != self._refused:
            _say(f"the run goes on without CUDA graphs: {reason}")
        self._refused = reason

    def _prepare(self, wrapper: nn.Module) -> GraphedLosses | str:
        """Graphs of a run's model, or why there are none."""
        model = _unwrapped(wrapper)
        reason = _why_not(wrapper, model)
        if reason is not None:
            return reason
        recorder = self.recorder(next(model.parameters()).device)
        if isinstance(recorder, str):
            return recorder
        averaging = agreement = None
        if wrapper is not model:
            averaging = Averaging(wrapper.process_group, compressed_dtype(wrapper))
            ranks = torch.distributed.get_process_group_ranks(wrapper.process_group)
            of_some = len(ranks) < get_world_size()  # others do not come here
            hosts = torch.distributed.new_group(
                ranks, backend="gloo", use_local_synchronization=of_some
            )
            agreement = Agreement(hosts)
        return GraphedLosses(
            model, recorder, self.most_shapes, self.bucket_bytes, averaging, agreement, _say
        )


def _unwrapped(wrapper: nn.Module) -> nn.Module:
    return wrapper.module if isinstance(wrapper, DistributedDataParallel) else wrapper


def _that_predicts(model: nn.Module) -> nn.Module | None:
    """The segmentor in what wraps it: for several processes, or to see images several times."""
    while model is not None and not hasattr(model, "encode_decode"):
        model = getattr(model, "module", None)
    return model


def _why_not(wrapper: nn.Module, model: nn.Module) -> str | None:
    stock = imported("mmseg.models.segmentors.base", "BaseSegmentor")
    if is_model_wrapper(model):
        return f"{type(model).__name__} spreads the model in a way of its own"
    if stock is None or not isinstance(model, stock):
        return f"{type(model).__name__} is no segmentor of mmseg"
    if "forward" in wrapper.__dict__ or "forward" in model.__dict__:
        return "the model's forward was replaced"
    if type(model).forward is not stock.forward:
        return f"{type(model).__name__} has a forward of its own"
    if wrapper is model and get_world_size() > 1:
        return "processes train without DistributedDataParallel"
    reason = why_not_recorded(model)
    if reason is None and wrapper is not model:
        reason = why_not_averaged(wrapper, compressed_dtype(wrapper) is not None)
    return reason


def _forward_by(graphs: GraphedLosses):
    """A ``forward`` of a segmentor, or of its wrapper, whose losses come from graphs."""

    def forward(wrapper: nn.Module, inputs: Tensor, data_samples=None, mode="tensor"):
        losses = None
        own = _unwrapped(wrapper) is graphs.model  # and not a copy of it
        if own and mode == "loss" and torch.is_grad_enabled():
            averages = getattr(wrapper, "require_backward_grad_sync", True)
            losses = _losses(graphs, inputs, data_samples, averages)
        if losses is None:
            return type(wrapper).forward(wrapper, inputs, data_samples, mode=mode)
        return losses

    return forward


def _losses(graphs: GraphedLosses, inputs: Tensor, samples, averages: bool) -> dict | None:
    try:
        labels, structures = take_apart(samples or [])
        _check(inputs, labels)
    except ValueError as error:
        graphs.refuse_batch(str(error), averages)
        return None

    def bind(tensors):
        images, elements = tensors[0], put_together(structures, tensors[1:])
        return lambda: graphs.model.loss(images, elements)

    return graphs.losses([inputs, *labels], bind, structures, averages)


def _check(inputs: Tensor, labels: list[Tensor]) -> None:
    """Raise ``ValueError`` if what the losses are computed of is not all in these tensors."""
    if not isinstance(inputs, Tensor):
        raise ValueError(f"inputs are a {type(inputs).__name__}, not a tensor")
    if hasattr(inputs, "valid_sizes"):
        raise ValueError("the sizes of the images decide what is computed")
    if not labels:
        raise ValueError("there are no labels")
    away = {str(label.device) for label in labels if label.device != inputs.device}
    if away:
        raise ValueError(f"labels lie on {', '.join(sorted(away))}, images on {inputs.device}")


def _say(message: str) -> None:
    print_log(message, "current")
