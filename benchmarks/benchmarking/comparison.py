"""Run every implementation at every case, side by side."""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swin_backbone import compile_kernels
from swin_backbone.device_memory import peak_on_gpu
from swin_backbone.inference.timing import (
    Deadline,
    calls_in_a_turn,
    host_seconds,
    interleave,
    wall_seconds,
)

from . import memory
from .cases import Case, matmul_precision
from .implementations import Implementation
from .interruption import TimeIsUp, interrupted_at
from .results import TIME_LIMIT, CaseResult, Row
from .roofline import count_floor
from .steps import EAGER, NEED_COMPILER, Step, check_maps, executions, make_step

WARM_UP = 4  # calls before the first that counts, the very first included
HOST_CALLS = 5  # whose median is the host's time
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to compare.

    Args:
        repeats: rounds, in each of which every implementation has a turn.
        with_compiled: whether to run ``torch.compile`` too.
        cpu_memory: whether to measure memory on the CPU, each in a process of its own.
        deadline: when to stop measuring.
        say: told in a line what is going on.
    """

    repeats: int
    with_compiled: bool
    cpu_memory: bool
    deadline: Deadline
    say: Say


class Contender:
    """One implementation in one way of running it, ready to be timed."""

    def __init__(self, row: Row, model: nn.Module, step: Step, calls: int, in_a_row: bool):
        self.row, self.model, self.step = row, model, step
        self.calls, self.in_a_row = calls, in_a_row
        self.samples = row.samples

    def fail(self, error: Exception) -> None:
        self.row.reason = describe_error(error)

    def release(self) -> None:
        self.model.zero_grad(set_to_none=True)


def plan(
    cases: Iterable[Case], implementations: Sequence[Implementation], with_compiled: bool
) -> list[CaseResult]:
    """What there is to measure: rows that say that they were not, until they are."""
    return [
        CaseResult(
            case,
            count_floor(case),
            [
                Row(implementation.name, execution, reason=TIME_LIMIT)
                for implementation in implementations
                for execution in executions(case, implementation, with_compiled)
            ],
        )
        for case in cases
    ]


def measure_all(
    results: Sequence[CaseResult], implementations: Sequence[Implementation], options: Options
) -> Iterator[CaseResult]:
    """Fill in ``results``, cases of the same models one after the other.

    Compiling takes longer than all the rest, so everything is measured without it first. With
    ``torch.compile`` everything is measured again, so that all rows come from the same rounds.

    Yields:
        each result as soon as it has changed.
    """
    for with_compiled in (False, True) if options.with_compiled else (False,):
        by_models = itertools.groupby(results, key=lambda r: (r.case.architecture, r.case.size))
        for _, group in by_models:
            models: dict[str, nn.Module | str] = {}
            for result in group:
                if not options.deadline.passed:
                    result.take(
                        measure_case(result.case, implementations, models, with_compiled, options)
                    )
                    yield result
            models.clear()
            free_memory()


def measure_case(
    case: Case,
    implementations: Iterable[Implementation],
    models: dict[str, nn.Module | str],
    with_compiled: bool,
    options: Options,
) -> list[Row]:
    """Measure one case.

    Args:
        case: what to measure.
        implementations: whom.
        models: those already built for this architecture and size, or why they could not be;
            is added to.
        with_compiled: whether to run ``torch.compile`` too.
        options: how.
    """
    options.say(f"[bold]{case.title}[/]{', with torch.compile' if with_compiled else ''}")
    todo = [
        (Row(implementation.name, execution), implementation)
        for implementation in implementations
        for execution in executions(case, implementation, with_compiled)
    ]
    todo.sort(key=lambda item: item[0].execution in NEED_COMPILER)  # else in the order given
    try:
        with matmul_precision(case.dtype), interrupted_at(options.deadline):
            take_turns(todo, models, case, options)
    except TimeIsUp:
        options.say("  the time limit has passed")
    if with_compiled:
        torch.compiler.reset()  # else the next case would begin with what this one compiled
    rows = [row for row, _ in todo]
    for row in rows:
        if not row.samples and not row.reason:
            row.reason = TIME_LIMIT
    return rows


def take_turns(
    todo: Sequence[tuple[Row, Implementation]],
    models: dict[str, nn.Module | str],
    case: Case,
    options: Options,
) -> None:
    """Prepare everyone, then time them in rounds; what comes out is in the rows."""
    contenders, images = [], case.images()
    load_libraries(case)
    for row, implementation in todo:
        if options.deadline.passed:
            row.reason = TIME_LIMIT
        elif contender := prepare(row, implementation, models, images, case, options):
            contenders.append(contender)
        options.say(f"  {row.label}: {row.reason or f'first call {row.first_call:.2f} s'}")
    start, rounds = options.deadline.elapsed, 0
    for rounds in interleave(contenders, case.device, options.repeats, options.deadline):
        options.say(f"  round {rounds} of {options.repeats}")
    options.say(f"  {rounds} rounds took {options.deadline.elapsed - start:.1f} s")


def load_libraries(case: Case) -> None:
    """Have PyTorch load what everyone needs, so that no one's first call pays for it."""
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 4, 4), nn.Flatten(2), nn.LayerNorm(64), nn.Linear(64, 32)
    )
    layers.to(case.device)
    with case.autocast():
        maps = layers(torch.randn(1, 3, 32, 32, device=case.device))
    maps.float().mean().backward()


def prepare(
    row: Row,
    implementation: Implementation,
    models: dict[str, nn.Module | str],
    images: Tensor,
    case: Case,
    options: Options,
) -> Contender | None:
    """Build, check and warm up one implementation, and measure the host's time and memory.

    Returns:
        what is to be timed, or ``None`` with the reason in ``row``.
    """
    if implementation.name not in models:
        models[implementation.name] = build_or_reason(implementation, case)
    model = models[implementation.name]
    if isinstance(model, str):
        row.reason = model
        return None
    row.parameters = sum(parameter.numel() for parameter in model.parameters())
    contender = None
    try:
        contender = warm_up(row, model, images, case, implementation.is_ours)
        calls = [host_seconds(contender.step, case.device) for _ in range(HOST_CALLS)]
        row.host_seconds = statistics.median(calls)
        row.peak_bytes = measure_memory(row, contender, images, case, options)
    except Exception as error:
        row.reason = describe_error(error)
    model.zero_grad(set_to_none=True)
    if row.reason:
        free_memory()
        return None
    return contender


def build_or_reason(implementation: Implementation, case: Case) -> nn.Module | str:
    """The model on the device, or why there is none."""
    try:
        return implementation.build(case.architecture, case.size).to(case.device)
    except ImportError as error:
        return f"not installed: {describe_error(error)}"
    except Exception as error:
        return describe_error(error)


def warm_up(row: Row, model: nn.Module, images: Tensor, case: Case, is_ours: bool) -> Contender:
    """Call often enough that everything is compiled and cached, and check the maps.

    Our kernels are compiled together, as training compiles them, in the first call's time.
    """

    def first_call():
        step = make_step(model, images, case, row.execution)
        if is_ours and row.execution == EAGER:
            compile_kernels(model, step)
        return step, step()

    row.first_call, (step, maps) = wall_seconds(first_call, case.device)
    check_maps(maps, case)
    del maps
    for _ in range(WARM_UP - 1):
        last, _ = wall_seconds(step, case.device)
    return Contender(row, model, step, calls_in_a_turn(last), in_a_row=case.mode != "latency")


def measure_memory(
    row: Row, contender: Contender, images: Tensor, case: Case, options: Options
) -> int | None:
    """Peak bytes where they can be told; a CUDA graph's memory was taken when it was recorded."""
    if case.device == "cuda":
        has_graph = "graph" in row.label
        return None if has_graph else peak_on_gpu(contender.model, images, contender.step)
    if options.cpu_memory and row.execution == EAGER:
        return memory.peak_on_cpu(row.implementation, case)
    return None


def describe_error(error: BaseException) -> str:
    """One line: the kind of error and the first line of its message."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    lines = str(error).strip().splitlines()
    message = lines[0] if lines else ""
    return f"{type(error).__name__}: {message}"[:200]


def free_memory() -> None:
    """Return what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
