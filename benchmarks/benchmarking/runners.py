"""Ways of running a model that take turns, and what is kept of each."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from swin_backbone.device_memory import give_back_memory, peak_on_gpu
from swin_backbone.graphs import graphed_backbones
from swin_backbone.inference.timing import Deadline, interleave

Step = Callable[[], object]


@dataclass
class Runner:
    """One way of running a task, ready to be timed.

    Attributes:
        name: of the way.
        model: what runs.
        images: what it gets.
        step: one call.
        samples: seconds of the timed calls.
        reason: why there is no measurement.
        peak_bytes: of memory on a GPU.
        held_bytes: of memory that stays between steps, beside weights: that of graphs.
    """

    name: str
    model: nn.Module
    images: Tensor
    step: Step
    calls: int = 1
    in_a_row: bool = True
    samples: list[float] = field(default_factory=list)
    reason: str | None = None
    peak_bytes: int | None = None
    held_bytes: Callable[[], int] = lambda: 0

    def fail(self, error: Exception) -> None:
        self.reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]

    def measure_peak(self) -> None:
        """Of one step on a GPU, with what graphs hold, which is there before it."""
        held = self.held_bytes()
        self.peak_bytes = held + peak_on_gpu(self.model, self.images, self.step)

    def release(self) -> None:
        self.model.zero_grad(set_to_none=True)


def bytes_of_graphs(model: nn.Module) -> int:
    """Of memory that CUDA graphs of parts of a model hold."""
    return sum(graphs.bytes_held() for graphs in graphed_backbones(model))


def take_turns(runners: Sequence[Runner], device: str, repeats: int, deadline: Deadline) -> None:
    """Time all that can run, in rounds in which each has a turn."""
    ready = [runner for runner in runners if runner.reason is None]
    for _ in interleave(ready, device, repeats, deadline):
        pass


def forget_models(runners: Sequence[Runner]) -> None:
    """Their models are not needed any more: give back what they take."""
    for runner in runners:
        runner.model = runner.step = runner.images = None
    gc.collect()  # models refer to themselves
    give_back_memory()
