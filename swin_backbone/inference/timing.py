"""Clocks, a time limit, and rounds in which every implementation has its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch

LEAST_ROUNDS = 3
#: Calls that follow each other on a GPU without waiting, in a turn.
CALLS_IN_A_ROW = 6


class Timed(Protocol):
    """What :func:`interleave` measures: it appends seconds to ``samples``."""

    @property
    def step(self) -> Callable[[], object]:
        """What is timed."""

    calls: int
    in_a_row: bool
    samples: list[float]

    def fail(self, error: Exception) -> None:
        """Told of an exception, after which it has no more turns."""

    def release(self) -> None:
        """Give back memory at the end of a turn."""


@dataclass
class Deadline:
    """A time limit for everything together, in seconds; ``None`` for no limit."""

    limit: float | None = None
    start: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    @property
    def passed(self) -> bool:
        return self.limit is not None and self.elapsed >= self.limit


def synchronize(device: str) -> None:
    """Wait for a GPU to finish."""
    if device == "cuda":
        torch.cuda.synchronize()


def wall_seconds(step: Callable[[], object], device: str) -> tuple[float, object]:
    """Seconds from the call to the end of all its work, host's included, and the result."""
    synchronize(device)
    start = time.perf_counter()
    result = step()
    synchronize(device)
    return time.perf_counter() - start, result


def host_seconds(step: Callable[[], object], device: str) -> float:
    """Seconds until a call returns, the device idle before: on a GPU what the host needs to start
    its work, on the CPU all of it."""
    synchronize(device)
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def seconds(step: Callable[[], object], device: str) -> float:
    """Seconds of one call: between CUDA events on a GPU, wall time on the CPU."""
    if device != "cuda":
        return wall_seconds(step, device)[0]
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def turn_of(timed: Timed, device: str) -> list[float]:
    """Seconds of a call in one turn.

    On a GPU, calls ``in_a_row`` do not wait for each other, as the steps of a training loop do not:
    the host prepares the next while the GPU works. They give one sample. Latency waits each time.
    """
    if device != "cuda" or not timed.in_a_row:
        return [seconds(timed.step, device) for _ in range(timed.calls)]
    calls = max(timed.calls, CALLS_IN_A_ROW)

    def steps() -> None:
        for _ in range(calls):
            timed.step()

    return [seconds(steps, device) / calls]


def calls_in_a_turn(step_seconds: float, turn: float = 0.02, most: int = 20) -> int:
    """Timed calls in one turn: short steps are repeated to fill ``turn`` seconds."""
    return max(1, min(most, int(turn / max(step_seconds, 1e-9))))


def interleave(
    timed: Iterable[Timed],
    device: str,
    repeats: int,
    deadline: Deadline,
    least: int = LEAST_ROUNDS,
) -> Iterator[int]:
    """Rounds of one turn each, so that a drift of clock or temperature meets all alike.

    On a GPU each turn begins with a call that is not timed: caches and the allocator are then as
    they are in a loop of one implementation.

    Yields:
        the number of rounds done, after each round; stops early, but not before ``least`` of
        them, when the deadline has passed.
    """
    running = list(timed)
    for done in range(repeats):
        for one in list(running):
            if done >= least and deadline.passed:
                return
            try:
                if device == "cuda":
                    one.step()
                one.samples += turn_of(one, device)
            except Exception as error:
                one.fail(error)
                running.remove(one)
            one.release()
        yield done + 1
