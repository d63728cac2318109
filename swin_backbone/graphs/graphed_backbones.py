"""A backbone's maps by graphs: which calls get one, and what becomes of all others."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from ..ops import dispatch
from ..ops.kept_tables import is_keeping
from ..ops.tracing import why_plain_operators
from .alone import Alone
from .gathered_parameters import ParameterCopies, gathers_as_one
from .gradients import StaticGradients
from .graphed_heads import GraphedHead, StandIns
from .module_graph import ModuleGraph, Pass
from .recording import CaptureError, CudaRecorder, Recorder, starts_kernels
from .refusals import why_not_recorded
from .replaced_methods import ReplacedMethod, is_replaced, run_instead
from .structures import Structure, take_apart
from .training_state import Signature, modes_of_torch

LOG = logging.getLogger(__name__)
#: Takes a message, and its level as of :mod:`logging`.
Say = Callable[[str, int], None]
#: Of gradients that are moved together.
BUCKET_BYTES = 64 * 2**20
#: A model that changes more often than this runs as it is.
MOST_CHANGES = 8
WITHOUT = "run without a CUDA graph"


def log(message: str, level: int) -> None:
    LOG.log(level, message)


def recorder_on(device: torch.device) -> Recorder | str:
    """What records graphs on a device, or why nothing does."""
    if device.type != "cuda":
        return f"the model is on a {device.type}, and graphs are CUDA's"
    return CudaRecorder(device)


class GraphedBackbone:
    """What :func:`graph_backbone` did to a model, and the way back.

    Args:
        model: one of its methods is graphed.
        most: shapes that get a graph in training, and as many in predictions.
        record_on: gives a device's recorder, or why there is none.
        say: gets each message once.
        head: name of a module of the model that is called with the maps, or ``None``.
        stand_ins: of that module's further arguments.
        method: of the model, in the place of its usual one.
        modules: that the method runs; ``None``: all of the model's.

    Attributes:
        reason: why there are no graphs, or ``None``.
    """

    def __init__(
        self,
        model: nn.Module,
        most: int,
        record_on: Callable[[torch.device], Recorder | str],
        say: Say,
        head: str | None = None,
        stand_ins: StandIns | None = None,
        method: str | None = None,
        modules: Sequence[nn.Module] | None = None,
    ):
        self.model, self.most = model, most
        self.reason: str | None = None
        self._record_on, self._say, self._said = record_on, say, set()
        method, self._part = _what_is_graphed(model, head, method, modules)
        self._head, self._called = None, [model]
        if head is not None:
            self._head = GraphedHead(self._part[head], stand_ins)
            self._called.append(self._part[head])
        self._replaced = ReplacedMethod(model, method, self._run)
        self._signature = Signature(self._part, with_modes=False)
        self._changes = 0
        self._alone = Alone()
        #: The last pass whose gradients may come, if anybody still has its results.
        self._waits: Callable[[], Pass | None] = lambda: None
        self._forget()
        self._look()

    def _forget(self) -> None:
        self._graphs: dict[Hashable, ModuleGraph] = {}
        self._seen: set[Hashable] = set()
        self._full: set[bool] = set()
        self._gradients: StaticGradients | None = None
        self._copies: ParameterCopies | None = None
        self._recorder: Recorder | None = None

    @property
    def shapes(self) -> int:
        """How many shapes have a graph, those of training and those of predictions."""
        return len(self._graphs)

    def bytes_held(self) -> int:
        """Of memory, by all graphs, the gradients that they fill, and copies of parameters."""
        holders = (self._recorder, self._gradients, self._copies)
        return sum(holder.bytes_held() for holder in holders if holder is not None)

    def revert(self) -> None:
        """Give the model its own method again, and the graphs' memory back."""
        self._replaced.revert()
        if self._head is not None:
            self._head.revert()
        self._forget()

    def say_once(self, message: str, level: int = logging.WARNING) -> None:
        if message not in self._said:
            self._said.add(message)
            self._say(message, level)

    def _run(self, *args, **kwargs) -> object:
        """What the model's own method gives, by a graph from the second call of a shape on."""
        if self._head is not None:
            self._head.forget()  # which would else wait for their backward pass
        if starts_kernels() and not _is_part_of_more():
            with self._alone.asked() as alone:
                found = self._replayed(args, kwargs) if alone else None
            if found is not None:
                return found[0]
        return self._replaced.function(*args, **kwargs)

    def _replayed(self, args: tuple, kwargs: dict) -> tuple[object] | None:
        """The result, if there is a graph."""
        tensors, structure = self._taken_apart(args, kwargs)
        graph = None
        if tensors and self._may_replay(tensors):
            graph = self._graph(tensors, structure)
        if graph is None:
            return None
        result, waiting = graph(tensors)
        if waiting is not None:
            self._waits = weakref.ref(waiting)
        if self._head is not None:
            self._head.keep(*result)
            result = result[0]
        return (result,)

    def _taken_apart(self, args: tuple, kwargs: dict) -> tuple[list[Tensor], Structure | None]:
        try:
            return take_apart((args, kwargs))
        except ValueError as error:
            self.say_once(f"calls {WITHOUT} where, of the arguments, {error}")
            return [], None

    def _may_replay(self, tensors: Sequence[Tensor]) -> bool:
        if self._signature.has_changed():
            self._notice()
        if self.reason is not None:
            self.say_once(f"the backbone goes on without CUDA graphs: {self.reason}")
            return False
        device = next(self._part.parameters()).device
        reason = None
        if any(why_plain_operators(one) is not None for one in tensors):
            reason = "something watches the operators"
        elif any(hasattr(one, "valid_sizes") for one in tensors):
            reason = "the sizes of the images decide what is computed"
        elif any(one.device != device for one in tensors):
            reason = f"a tensor is not on {device}"
        elif any(one.numel() == 0 for one in tensors):
            reason = "there is no image"
        elif not self._alone.keeps_order(device):
            reason = "another CUDA stream is current than was at first"
        elif (waiting := self._waits()) is not None and not waiting.is_done:
            reason = "an earlier call's results still wait for their backward pass"
        if reason is not None:
            self.say_once(f"calls {WITHOUT} where {reason}")
        return reason is None

    def _notice(self) -> None:
        """Take note of a model that has changed: what was recorded of it is wrong."""
        if self._graphs:
            self._changes += 1
        self._forget()
        self._look()

    def _look(self) -> None:
        """Decide whether the model, as it is now, can have graphs at all."""
        gathered = self._part is self.model and gathers_as_one(self.model)
        self._signature.with_places = not gathered
        self.reason = why_not_recorded(self._part, self._called, gathered)
        if self.reason is None and self._changes > MOST_CHANGES:
            self.reason = "modules, parameters or which of these are trained change again and again"
        if self.reason is None:
            found = self._record_on(next(self._part.parameters()).device)
            self._recorder, self.reason = (None, found) if isinstance(found, str) else (found, None)

    def _graph(self, tensors: Sequence[Tensor], structure: Structure) -> ModuleGraph | None:
        """The graph of calls of this kind, or ``None`` where they have none."""
        trained = self._signature.is_trained() or any(one.requires_grad for one in tensors)
        learns = torch.is_grad_enabled() and trained
        key = (learns, structure, self._signature.modes(), *_circumstances(tensors, learns))
        graph = self._graphs.get(key)
        if graph is None and key in self._seen:
            graph = self._record(key, tensors, structure, learns)
        if len(self._seen) < 1024:  # of images of many sizes, most come once
            self._seen.add(key)
        return graph

    def _record(self, key, tensors, structure: Structure, learns: bool) -> ModuleGraph | None:
        kind = "training" if learns else "predictions"
        if learns in self._full:
            return None
        if sum(graph.learns is learns for graph in self._graphs.values()) >= self.most:
            self._full.add(learns)
            self.say_once(
                f"{self.most} shapes of images have a CUDA graph in {kind}, and further ones "
                f"{WITHOUT}"
            )
            return None
        try:
            graph = self._made(tensors, structure, learns)
        except CaptureError as error:
            if self._head is not None:
                self._leave_the_head(error)
                return self._record(key, tensors, structure, learns)
            self._full.add(learns)
            self.say_once(f"no further shapes of images get a CUDA graph in {kind}: {error}")
            return None
        self._graphs[key] = graph
        self.say_once(
            f"CUDA graphs replay the backbone for {self.shapes} shapes of images, and hold "
            f"{self.bytes_held() / 2**20:.0f} MiB",
            logging.INFO,
        )
        return graph

    def _leave_the_head(self, error: CaptureError) -> None:
        """Go on with the maps alone: not all that a head does can be captured."""
        self.say_once(f"the head is left out of the CUDA graphs: {error}")
        self._head.revert()
        self._head, self._called = None, [self.model]
        self._part = _what_is_graphed(self.model, None)[1]
        self._signature = Signature(self._part, with_modes=False)
        self._forget()
        self._look()

    def _made(self, tensors, structure: Structure, learns: bool) -> ModuleGraph:
        if learns and _synchronises(self._part):
            raise CaptureError("SyncBatchNorm waits for other processes, which may not record now")
        function = self._replaced.function
        if self._head is not None:
            function = self._head.joined(function)
        if self._copies is None and not self._signature.with_places:
            self._copies = ParameterCopies(self._part)
        arguments = function, tensors, structure, self._part, self._recorder, learns
        graph = ModuleGraph(*arguments, self._copies)
        if learns and self._gradients is None:
            self._gradients = StaticGradients(graph.parameters_in_order(), BUCKET_BYTES, None)
        graph.record(self._gradients)
        return graph


def _what_is_graphed(
    model: nn.Module,
    head: str | None,
    method: str | None = None,
    modules: Sequence[nn.Module] | None = None,
) -> tuple[str, nn.Module]:
    """The name of a method, and the modules that it runs, and that run after it.

    Raises:
        ValueError: if ``head`` is no child of a model with ``extract_feat``, or there is no such
            method, or none for ``modules``.
    """
    if modules is not None and method is None:
        raise ValueError("modules are of a method, and method is None")
    if method is not None:
        if head is not None or not callable(getattr(model, method, None)):
            raise ValueError(
                f"method must be the name of a method, and stand without a head, got {method!r}"
            )
        return method, model if modules is None else nn.ModuleList(modules)
    own = dict(model.named_children())
    extracts = callable(getattr(model, "extract_feat", None))
    if head is not None and not (extracts and head in own):
        raise ValueError(
            f"head must be the name of a child of a model with extract_feat, got {head!r}"
        )
    parts = {name: own[name] for name in ("backbone", "neck") if name in own}
    if not (extracts and parts):
        return "forward", model
    return "extract_feat", nn.ModuleDict(parts if head is None else {**parts, head: own[head]})


def graph_backbone(
    model: nn.Module,
    most_shapes: int = 4,
    record_on: Callable[[torch.device], Recorder | str] = recorder_on,
    say: Say = log,
    head: str | None = None,
    stand_ins: StandIns | None = None,
    method: str | None = None,
    modules: Sequence[nn.Module] | None = None,
) -> GraphedBackbone:
    """Replay a backbone's forward and backward pass as CUDA graphs, for sizes that come again.

        graphs = swin_backbone.graph_backbone(model)
        graphs.revert()

    What a call returns, and what gradients come of it, is what it was. Parameters, their names,
    ``state_dict``, hooks of parameters, ``DistributedDataParallel``, accumulation, clipping and
    optimizers are none the wiser. Results and gradients lie in memory of their own, which no later
    call changes. A call that cannot be replayed runs as it would without: the first of its kind, a
    further shape, one before the backward pass of the one before it. Of a model that PyTorch's
    ``fully_shard`` has spread over processes, a module whose parameters are gathered as one can
    have graphs, which read copies of them.

    Args:
        model: a backbone, or any module whose ``forward`` takes and returns tensors, in tuples,
            lists or mappings if need be. Of a model with ``extract_feat``, as OpenMMLab's detectors
            and segmentors have it, backbone and neck are captured together.
        most_shapes: calls of so many shapes get a graph in training, and as many in predictions,
            each when it comes a second time.
        record_on: gives the recorder of a device; by default CUDA's.
        say: gets each message, once, and its level as of :mod:`logging`; by default this module's
            logger.
        head: name of a child of a model with ``extract_feat`` whose ``forward`` is called with what
            that returns, all maps in a sequence, and computes tensors of shapes that follow from
            theirs. It is captured with them.
        stand_ins: given the maps, what stands for further arguments of that ``forward``, on which
            its results do not depend.
        method: name of a method of the model that is captured in the place of ``forward`` or
            ``extract_feat``.
        modules: all that ``method`` runs, if it is not all of the model.

    Returns:
        What takes it back, with the reason if nothing can be captured.

    Raises:
        TypeError: if ``model`` is no module.
        ValueError: if ``most_shapes`` is below 1, or ``model`` has no parameters or has graphs
            already, or ``head`` is not the name of such a child, or ``method`` of no method, or
            ``modules`` come without it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(most_shapes, bool) or not isinstance(most_shapes, int) or most_shapes < 1:
        raise ValueError(f"most_shapes must be an integer of at least 1, got {most_shapes!r}")
    replaced, part = _what_is_graphed(model, head, method, modules)
    if next(part.parameters(), None) is None:
        raise ValueError(f"model must have parameters, got a {type(model).__name__} without any")
    if is_replaced(model, replaced):
        raise ValueError(f"model has graphs in {replaced} already: revert them first")
    return GraphedBackbone(model, most_shapes, record_on, say, head, stand_ins, method, modules)


def graphed_backbones(model: nn.Module) -> list[GraphedBackbone]:
    """What :func:`graph_backbone` did to a model and to modules in it."""
    owners = [getattr(run, "__self__", None) for run in run_instead(model)]
    return [owner for owner in owners if isinstance(owner, GraphedBackbone)]


def _circumstances(tensors: Sequence[Tensor], learns: bool) -> tuple:
    """What else decides what a call computes."""
    shapes = [
        (tuple(one.shape), one.stride(), one.dtype, learns and one.requires_grad) for one in tensors
    ]
    return tuple(shapes), modes_of_torch(tensors[0].device.type)


def _synchronises(model: nn.Module) -> bool:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return any(isinstance(m, nn.SyncBatchNorm) and m.training for m in model.modules())


def _is_part_of_more() -> bool:
    """Whether this call is recorded or compiled with others, or explained, which takes the
    operators."""
    if torch.compiler.is_compiling() or is_keeping() or dispatch.listeners:
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
