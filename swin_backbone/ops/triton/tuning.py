"""Launch parameters that suit the card at hand: shipped, remembered, or found by trying.

:data:`swin_backbone.ops.triton.launch.CONFIGS` was measured on an H100 and is taken there and on
its kin. On another card the first call of an operation with a kernel, channels, rows (in powers of
two) and size of element that are not known yet is run a few times with each of a few candidates;
the best is remembered in memory and in ``swin_backbone/kernels.json`` in the user's cache
directory, by card, version of Triton, and the kernels' source.

Nothing is timed where it could not be, or could change results: while a CUDA graph is captured or
torch.compile traces, and under ``torch.use_deterministic_algorithms``, as other blocks sum in
another order. What is remembered serves there too, and without it what is shipped or, where that
does not fit into the card, :data:`CAUTIOUS`.

Only blocks are tuned. Which kernels compute an operation follows from what would be taken untried:
whether the MLP's backward pass runs on chip, and whether a linear layer counts as one of few
rows, so that neither changes while candidates are tried. Kernels whose blocks follow from their
sizes alone, as those of norms, are not tuned.

The environment variable ``SWIN_BACKBONE_TUNE`` or :func:`set_mode` choose: ``0`` for never, ``1``
(the default) as above, ``force`` to time again, on every card.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..symbolic_shapes import has_values
from . import launch
from .launch import Config
from .tuning_cache import Memory, default_path, digest_of_kernels
from .tuning_candidates import CANDIDATES, CAUTIOUS

logger = logging.getLogger(__name__)

MODES = ("0", "1", "force")
VARIABLE = "SWIN_BACKBONE_TUNE"
#: Cards, by a part of their names, for which :data:`launch.CONFIGS` was measured.
SHIPPED = ("H100", "H200", "GH200")
#: Shared memory of a program, in bytes, that what is shipped may take.
SHIPPED_MEMORY = 227 * 1024
#: A candidate's time is that of the best of so many rounds of so many calls.
ROUNDS, CALLS = 3, 3


class Work(NamedTuple):
    """What a configuration is chosen for.

    Attributes:
        kernel: its name in :data:`CANDIDATES`.
        channels: what configurations of the kernel are listed by.
        rows: tokens.
        dtype: in which matrices are multiplied.
    """

    kernel: str
    channels: int
    rows: int
    dtype: torch.dtype

    @property
    def group(self) -> str:
        """What has one configuration, apart from the number of rows."""
        return f"{self.kernel}/{self.channels}/{8 * self.dtype.itemsize}"

    @property
    def bucket(self) -> int:
        """Rows in powers of two."""
        return self.rows.bit_length()


class Tuner:
    """What is known for one card, and how more is found.

    Args:
        memory: what was remembered.
        card: its name, for the log.
        seconds: times a call.
        candidates: what is worth trying for a piece of work; :func:`candidates_for` by default.

    Attributes:
        times: what each candidate that ran took, in seconds, by work.
    """

    def __init__(
        self,
        memory: Memory,
        card: str,
        seconds: Callable[[Callable], float],
        candidates: Callable[[Work], list[Config]] | None = None,
    ):
        self.memory = memory
        self.card = card
        self.seconds = seconds
        self.candidates = candidates or candidates_for
        self.times: dict[Work, dict[Config, float]] = {}
        self.trial: dict[str, Config] = {}
        self.given_up: set[tuple[str, int]] = set()
        self.lock = threading.RLock()  # an operation that is timed may start another one

    def lookup(self, work: Work) -> Config | None:
        """What is being tried, or was found for these rows or the nearest number of rows."""
        known = self.memory.entries.get(work.group, {})
        if work.kernel in self.trial or not known:
            return self.trial.get(work.kernel)
        return known[min(known, key=lambda bucket: abs(bucket - work.bucket))]

    def knows(self, work: Work) -> bool:
        """Whether there is nothing to find out."""
        known = self.memory.entries.get(work.group, {})
        return work.bucket in known or (work.group, work.bucket) in self.given_up

    def tune(self, work: Work, run: Callable[[], object], forget: Callable[[], None]) -> None:
        """Time candidates, and remember the best.

        Args:
            work: what is not known.
            run: the operation, to be run again and again.
            forget: has it look up its configuration again.
        """
        with self.lock:
            if self.knows(work):  # another thread was faster
                return
            candidates = self.candidates(work)
            logger.info(
                "tuning %s for %d channels, %d rows and %s on %s: %d candidates",
                *(work.kernel, work.channels, work.rows, work.dtype, self.card, len(candidates)),
            )
            start = time.monotonic()
            times = {}
            for candidate in candidates:
                with self._trying(work.kernel, candidate, forget):
                    times[candidate] = self.seconds(run)
            self.times[work] = times
            self._conclude(work, times, time.monotonic() - start)

    @contextmanager
    def _trying(self, kernel: str, candidate: Config, forget: Callable[[], None]) -> Iterator[None]:
        self.trial[kernel] = candidate
        forget()
        try:
            yield
        except Exception as error:  # Triton has many ways not to compile, by version
            logger.debug("%s with %s: %s: %s", kernel, candidate, type(error).__name__, error)
        finally:
            del self.trial[kernel]
            forget()

    def _conclude(self, work: Work, times: dict[Config, float], took: float) -> None:
        if not times:
            self.given_up.add((work.group, work.bucket))
            logger.warning("no candidate for %s runs on %s, see the debug log", work, self.card)
            return
        best = min(times, key=times.get)
        self.memory.remember(work.group, work.bucket, best)
        logger.info("tuned %s in %.1f s: %s, %.3f ms", work.kernel, took, best, 1e3 * times[best])


def config(kernel: str, channels: int, rows: int, dtype: torch.dtype) -> Config:
    """Launch parameters of a kernel; arguments as of :class:`Work`."""
    work = Work(kernel, channels, rows, dtype)
    tuner = current()
    return (tuner and tuner.lookup(work)) or untried(kernel, channels, dtype)


def untried(kernel: str, channels: int, dtype: torch.dtype) -> Config:
    """What :func:`config` says of a kernel where nothing is known: it ships, or suits the card."""
    if kernel in CAUTIOUS and not has_room():
        return _for_dtype(CAUTIOUS[kernel], dtype)
    return _for_dtype(launch.config(kernel, channels, dtype), dtype)


def candidates_for(work: Work) -> list[Config]:
    """What is worth trying, each once."""
    others = [_for_dtype(chosen, work.dtype) for chosen in CANDIDATES[work.kernel]]
    first = untried(work.kernel, work.channels, work.dtype)
    return list(dict.fromkeys([first, *others]))


def tuned(forget: Callable[[], None], describe: Callable[..., Work | None]):
    """Decorator of an operation that starts a kernel as :func:`config` says.

    Args:
        forget: has it ask :func:`config` again: clears the cache of its launches.
        describe: what the operation does for its arguments; ``None`` if it does not start the
            kernel. The operation must be repeatable: it returns new tensors, and changes none.
    """

    def decorate(operation):
        @wraps(operation)
        def call(*arguments, **options):
            tuner = chosen_tuner if chosen_tuner is not _UNKNOWN else current()
            if tuner is not None:
                work = describe(*arguments, **options)
                if work is not None and not tuner.knows(work) and may_time(arguments[0]):
                    run = lambda: operation(*arguments, **options)  # noqa: E731
                    tuner.tune(work, run, forget)
            return operation(*arguments, **options)

        return call

    return decorate


def may_time(x: Tensor) -> bool:
    """Whether an operation on ``x`` may be repeated now, and by other blocks."""
    is_started = launch.collected is None
    return is_started and has_values(x) and not torch.are_deterministic_algorithms_enabled()


def set_mode(mode: str) -> None:
    """``'0'``: never tune; ``'1'``: as this module says; ``'force'``: time again, on every card.

    Raises:
        ValueError: for another mode.
    """
    global chosen_tuner
    if mode not in MODES:
        raise ValueError(f"mode of tuning must be one of {', '.join(MODES)}, got {mode!r}")
    os.environ[VARIABLE] = mode
    chosen_tuner = _UNKNOWN


_UNKNOWN = object()
#: ``None`` where nothing is tuned. For the card that is current at the first call: cards of
#: different kinds in one process share what is found for one of them.
chosen_tuner: object = _UNKNOWN


def current() -> Tuner | None:
    global chosen_tuner
    if chosen_tuner is _UNKNOWN:
        chosen_tuner = make_tuner()
    return chosen_tuner


def make_tuner() -> Tuner | None:
    mode = os.environ.get(VARIABLE, "1")
    if mode not in MODES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "0" or not torch.cuda.is_available():
        return None
    card = torch.cuda.get_device_name()
    if mode != "force" and any(name in card for name in SHIPPED):
        return None
    key = f"{card}, triton {triton.__version__}, kernels {digest_of_kernels()}"
    return Tuner(Memory(default_path(), key, read=mode != "force"), card, _seconds_on_card)


def _seconds_on_card(run: Callable[[], object]) -> float:
    run()  # compiles
    best = math.inf
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(CALLS):
            run()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / CALLS)
    return best / 1e3


def _for_dtype(chosen: Config, dtype: torch.dtype) -> Config:
    """Blocks of 32 bit elements half as deep take the memory that 16 bit ones do."""
    return chosen._replace(depth=chosen.depth // 2) if dtype.itemsize > 2 else chosen


@torch.compiler.assume_constant_result
def has_room() -> bool:
    """Whether what is shipped fits the card; for the interpreter everything does."""
    return _has_room()


@cache
def _has_room() -> bool:
    if not torch.cuda.is_available():
        return True
    properties = torch.cuda.get_device_properties()
    memory = getattr(properties, "shared_memory_per_block_optin", None)  # torch >= 2.5
    return properties.major >= 9 if memory is None else memory >= SHIPPED_MEMORY
