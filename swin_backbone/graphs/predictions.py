"""Predictions of mmseg's segmentors by graphs: backbone and heads of each size of image as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from ..ops.kept_tables import keeping
from .alone import Alone
from .recording import CaptureError, CudaRecorder, Recorder, starts_kernels, why
from .refusals import why_not_recorded
from .replaced_methods import ReplacedMethod
from .training_state import Signature, modes_of_torch, unchanged

#: What a head reads of an image's metadata to resize its scores.
READ = ("img_shape", "pad_shape")
#: Passes before the capture.
WARM_UP = 2
LOG = logging.getLogger(__name__)


class RecordedCall:
    """One function of a tensor, recorded.

    Args:
        function: tensor to tensor.
        example: of the shape that it gets.
        model: which it runs.
        recorder: of the graph.

    Raises:
        CaptureError: if it cannot be recorded.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        example: Tensor,
        model: nn.Module,
        recorder: Recorder,
    ):
        self._input = example.detach().clone(memory_format=torch.contiguous_format)
        self._function, self._tables = function, []
        kind = example.device.type
        self._autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        with keeping(self._tables), unchanged(model, example.device):
            try:
                for index in range(WARM_UP):
                    with recorder.rehearsal(strict=index == WARM_UP - 1):
                        self._run()
            except Exception as error:
                raise CaptureError(why(error)) from error
            self._replay = recorder.record(self._run)

    def _run(self) -> None:
        kind, dtype, enabled = self._autocast
        # Casts that autocast has in store are of weights as they were.
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
            self._output = self._function(self._input)
        if not isinstance(self._output, Tensor):
            raise CaptureError(f"scores are a {type(self._output).__name__}, not a tensor")

    def __call__(self, x: Tensor) -> Tensor:
        """What the function gives for ``x``, in memory of its own."""
        self._input.copy_(x)
        self._replay()
        return self._output.clone()


class GraphedPredictions:
    """What :func:`graph_predictions` did to a model, and the way back.

    Attributes:
        reason: why there are no graphs, or ``None``.
    """

    def __init__(self, model: nn.Module, recorder: Recorder, most: int, say: Callable[[str], None]):
        self.model, self.recorder, self.most = model, recorder, most
        self.reason: str | None = None
        self._say = say
        self._replaced = ReplacedMethod(model, "encode_decode", self._encode_decode)
        self._calls: dict[Hashable, RecordedCall] = {}
        self._seen: set[Hashable] = set()
        self._signature, self._is_watched = Signature(model), False
        self._alone = Alone()

    @property
    def shapes(self) -> int:
        """How many shapes have a graph."""
        return len(self._calls)

    def revert(self) -> None:
        """Give the model its own method again, and the graphs' memory back."""
        self._replaced.revert()
        self._calls, self._seen = {}, set()

    def _encode_decode(self, inputs: Tensor, batch_img_metas: Sequence[dict]) -> Tensor:
        """The model's, by a graph from the second batch of a shape on."""
        scores = None
        if self.reason is None and self._may(inputs):
            with self._alone.asked() as alone:
                scores = self._replayed(inputs, batch_img_metas) if alone else None
        if scores is None:
            return self._replaced.function(inputs, batch_img_metas)
        return scores

    def _replayed(self, inputs: Tensor, batch_img_metas: Sequence[dict]) -> Tensor | None:
        if self._signature.has_changed():
            self._calls = {}
            self._is_watched = why_not_recorded(self.model) is not None
        if self._is_watched or not self._alone.keeps_order(inputs.device):
            return None
        metas = type(batch_img_metas)({k: m[k] for k in READ if k in m} for m in batch_img_metas)
        key = self._key(inputs, metas)
        call = self._calls.get(key)
        if call is None and key in self._seen and self.shapes < self.most:
            call = self._record(key, inputs, metas)
        self._remember(key)
        return None if call is None else call(inputs)

    def _may(self, inputs: Tensor) -> bool:
        quiet = not (self.model.training or torch.is_grad_enabled())
        return quiet and not hasattr(inputs, "valid_sizes") and starts_kernels()

    def _key(self, inputs: Tensor, metas: Sequence[dict]) -> Hashable:
        # Windows of an image have a torch.Size, which heads tell from a tuple.
        sizes = [(type(v).__name__, tuple(v)) for m in metas for v in m.values()]
        shape = tuple(inputs.shape), inputs.dtype, inputs.device
        return shape, modes_of_torch(inputs.device.type), type(metas), tuple(sizes)

    def _remember(self, key: Hashable) -> None:
        if len(self._seen) < 1024:  # of images of many sizes, most come once
            self._seen.add(key)

    def _record(self, key: Hashable, inputs: Tensor, metas) -> RecordedCall | None:
        try:
            call = RecordedCall(
                lambda x: self._replaced.function(x, metas), inputs, self.model, self.recorder
            )
        except CaptureError as error:
            self.reason, self._calls = str(error), {}
            self._say(f"predictions go on without CUDA graphs: {self.reason}")
            return None
        self._calls[key] = call
        if self.shapes == self.most:
            held = self.recorder.bytes_held() / 2**20
            self._say(
                f"{self.most} shapes of images have a CUDA graph for predictions ({held:.0f} MiB), "
                f"and further ones run without"
            )
        return call


def graph_predictions(
    model: nn.Module,
    most_shapes: int = 8,
    recorder: Recorder | None = None,
    say: Callable[[str], None] = LOG.info,
) -> GraphedPredictions:
    """Replay a segmentor's predictions as CUDA graphs, for sizes of images that come again.

        graphs = swin_backbone.graph_predictions(model)   # after swin_backbone.accelerate(model)
        graphs.revert()

    Only what is computed of images (backbone, neck and head) is replayed, in evaluation and without
    gradients. Weights may change between predictions. Where nothing can be captured, predictions
    go on as before.

    Args:
        model: a segmentor of mmseg, on a GPU.
        most_shapes: batches of so many shapes get a graph, each when it comes a second time.
        recorder: of the graphs; by default CUDA's.
        say: gets each message, once.

    Returns:
        What takes it back, with the reason if nothing can be captured.

    Raises:
        TypeError: if ``model`` is no module with ``encode_decode``.
        ValueError: if ``most_shapes`` is below 1.
    """
    if not isinstance(model, nn.Module) or not callable(getattr(model, "encode_decode", None)):
        raise TypeError(
            f"model must be a segmentor of mmseg, with encode_decode, got {type(model).__name__}"
        )
    if isinstance(most_shapes, bool) or not isinstance(most_shapes, int) or most_shapes < 1:
        raise ValueError(f"most_shapes must be an integer of at least 1, got {most_shapes!r}")
    reason = why_not_recorded(model)
    device = next(model.parameters()).device
    if reason is None and recorder is None:
        if device.type == "cuda":
            recorder = CudaRecorder(device)
        else:
            reason = f"the model is on a {device.type}, and graphs are CUDA's"
    graphs = GraphedPredictions(model, recorder, most_shapes, say)
    if reason is not None:
        graphs.reason = reason
        say(f"predictions go on without CUDA graphs: {reason}")
    return graphs
