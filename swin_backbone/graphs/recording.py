"""How a function is recorded, to be run again with other contents of the same memory."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

from ..ops import triton
from ..ops.dispatch import HAS_TRITON
from ..ops.torch_internals.graph_capture import clean_up_after_capture

#: Runs again what was recorded.
Replay = Callable[[], None]
#: What lies here is torch's own.
TORCH = Path(torch.__file__).parent


def starts_kernels() -> bool:
    """Whether kernels are started, and not only compiled for later."""
    return not HAS_TRITON or triton.launch.collected is None


class CaptureError(RuntimeError):
    """What was to be recorded cannot be; the message says why."""


class Recorder(Protocol):
    """What records."""

    def rehearsal(self, strict: bool):
        """A context in which the function is run beforehand. If ``strict``, what cannot be recorded
        raises."""

    def record(self, function: Callable[[], None]) -> Replay:
        """Record ``function``. Nothing of it has been computed when this returns.

        Raises:
            CaptureError: if it cannot be recorded.
        """

    def bytes_held(self) -> int:
        """Of memory, by all that was recorded."""


class CudaRecorder:
    """Records CUDA graphs, which share one pool of memory.

    So nothing that a graph leaves in its pool may be read after another graph has begun.

    Args:
        device: with an index.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = _stream(device)

    @contextmanager
    def rehearsal(self, strict: bool) -> Iterator[None]:
        """Run on the stream of the capture, whose workspaces are then there before it. If
        ``strict``, what makes the host wait for the GPU is an error, as it is in a capture."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        before = torch.cuda.get_sync_debug_mode()
        try:
            with torch.cuda.stream(self.stream):
                if strict:
                    torch.cuda.set_sync_debug_mode("error")
                yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
            current.wait_stream(self.stream)

    def record(self, function: Callable[[], None]) -> Replay:
        """Capture ``function``. Other threads, which load data or watch NCCL, go on meanwhile."""
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        torch.cuda.synchronize(self.device)
        try:
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                function()
        except Exception as error:
            reason = why(_first(error))
            torch.cuda.set_stream(current)  # which is left where the end of a capture raises
            if _first(error) is not error:  # the capture itself broke, not only the function
                clean_up_after_capture(self.pool, self.stream)
            raise CaptureError(reason) from error
        return graph.replay

    def bytes_held(self) -> int:
        """Of the pool."""
        segments = torch.cuda.memory_snapshot()
        return sum(s["total_size"] for s in segments if s.get("segment_pool_id") == self.pool)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recorders: for each stream that cuBLAS has worked on it keeps a workspace, of 32
    MiB on an H200, for as long as the process lives."""
    return torch.cuda.Stream(device)


def _first(error: BaseException) -> BaseException:
    """The error that came before one that was raised while it was dealt with."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    return error


def why(error: BaseException) -> str:
    """An error in a line: what it says, and the line of code outside of torch that it came from."""
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if TORCH not in Path(frame.filename).parents
    ]
    if not frames:
        return text
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno}, {frames[-1].name})"
