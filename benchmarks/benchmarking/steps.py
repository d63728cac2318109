"""What is timed: one call of a model, eager, compiled or replayed from a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .cases import Case
from .implementations import Implementation

#: A step runs once and returns the four maps.
Step = Callable[[], Sequence[Tensor]]
EAGER, GRAPH, COMPILED, COMPILED_GRAPH = "eager", "graph", "compiled", "compiled+graph"
NEED_COMPILER = (COMPILED, COMPILED_GRAPH)


def executions(case: Case, implementation: Implementation, with_compiled: bool) -> list[str]:
    """How one implementation is run in one case.

    CUDA graphs save launches, which matter for the latency of one image. Peers get theirs from
    ``torch.compile(mode='reduce-overhead')``, which also fuses their kernels; ours also by plain
    capture, since its kernels are fused already. What replays graphs by itself is run as it is.
    """
    if implementation.has_own_graphs:
        return [EAGER]
    graphs = case.mode == "latency" and case.device == "cuda"
    names = [EAGER]
    if graphs and implementation.is_ours:
        names.append(GRAPH)
    if with_compiled:
        names.append(COMPILED_GRAPH if graphs else COMPILED)
    return names


def make_step(model: nn.Module, images: Tensor, case: Case, execution: str) -> Step:
    """The step of ``case``; nothing is run yet, except to record a CUDA graph."""
    model.train(case.mode == "train")
    if execution == GRAPH:
        return _graph_step(model, images, case)
    if execution == COMPILED:
        call = torch.compile(model, dynamic=False)
    elif execution == COMPILED_GRAPH:
        call = torch.compile(model, dynamic=False, mode="reduce-overhead")
    else:
        call = model
    if case.mode == "train":
        return _train_step(model, call, images, case)
    forward = _forward_step(call, images, case)
    return _after_mark(forward) if execution == COMPILED_GRAPH else forward


def _forward_step(call: Callable, images: Tensor, case: Case) -> Step:
    def step():
        with torch.no_grad(), case.autocast():
            return call(images)

    return step


def _after_mark(forward: Step) -> Step:
    def step():
        torch.compiler.cudagraph_mark_step_begin()  # the last call's maps may be overwritten
        return forward()

    return step


def _train_step(model: nn.Module, call: Callable, images: Tensor, case: Case) -> Step:
    parameters = list(model.parameters())

    def step():
        for parameter in parameters:  # as an optimizer does, which does not walk the modules
            parameter.grad = None
        with case.autocast():
            maps = call(images)
        sum(m.float().mean() for m in maps).backward()
        return maps

    return step


def _graph_step(model: nn.Module, images: Tensor, case: Case, warm_up: int = 3) -> Step:
    forward = _forward_step(model, images, case)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Casts cached outside of the graph would not be replayed, those cached inside not be kept.
    with torch.no_grad(), case.autocast(cache_enabled=False), torch.cuda.graph(graph):
        maps = model(images)

    def step():
        graph.replay()
        return maps

    return step


def check_maps(maps: Sequence[Tensor], case: Case) -> None:
    """Raise ``ValueError`` unless ``maps`` have the shapes that everyone has to return."""
    expected = case.map_shapes()
    if len(maps) != len(expected):
        raise ValueError(f"returns {len(maps)} maps instead of {len(expected)}")
    for index, (m, shape) in enumerate(zip(maps, expected, strict=True)):
        if tuple(m.shape) != shape:
            raise ValueError(f"map {index} has shape {tuple(m.shape)} instead of {shape}")
