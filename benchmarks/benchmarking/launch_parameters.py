"""Time many launch parameters of each kernel of a step, more than tuning tries on a new card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import torch

from swin_backbone.ops.triton import tuning
from swin_backbone.ops.triton.launch import Config, forget_launches
from swin_backbone.ops.triton.tuning import Tuner, Work
from swin_backbone.ops.triton.tuning_cache import Memory

#: A candidate's time is the best of so many replays of a graph of so many calls.
REPLAYS, CALLS = 4, 6
#: Fewer rows a warp, and Triton 3.6 reads illegal addresses.
ROWS_OF_A_WARP = 16
COLUMNS = ("kernel", "channels", "bits", "rows_about", *Config._fields, "ms")


def cross(**values: Iterable) -> tuple[Config, ...]:
    """Every combination, but for those with too few rows a warp."""
    found = (Config(**dict(zip(values, each, strict=True))) for each in product(*values.values()))
    return tuple(one for one in found if one.rows >= ROWS_OF_A_WARP * one.warps)


_MLP = cross(rows=(64, 128), columns=(32, 64), warps=(4, 8), stages=(2, 3, 4)) + cross(
    rows=(64,), columns=(32, 64), warps=(4,), stages=(2, 3), registers=(168,)
)
_MLP_BACKWARD = (
    *cross(rows=(32, 64, 128), columns=(16, 32, 64), warps=(2, 4, 8), stages=(2, 3)),
    *cross(rows=(64,), columns=(16, 32), warps=(4,), stages=(2, 3), registers=(168,)),
    Config(rows=128, columns=32, warps=8, stages=2, registers=128),
)
#: By kernel, besides what would be taken; of other kernels what tuning tries.
WIDE: dict[str, tuple[Config, ...]] = {
    "norm_linear": cross(rows=(64, 128), columns=(32, 64, 128), warps=(4, 8), stages=(2, 3)),
    "linear": cross(
        rows=(64, 128, 256), columns=(64, 128, 256), depth=(64,), warps=(4, 8), stages=(3, 4)
    ),
    "linear_few_rows": cross(
        rows=(64, 128), columns=(32, 64), depth=(64, 128), warps=(4,), stages=(3, 4)
    ),
    "gelu_backward": cross(
        rows=(64, 128), columns=(64, 128, 256), depth=(32, 64), warps=(4, 8), stages=(3, 4)
    ),
    "mlp_forward": _MLP,
    "mlp_backward": _MLP_BACKWARD,
    "post_norm_mlp_forward": _MLP,
    "post_norm_mlp_backward": _MLP_BACKWARD,
    # Columns are the rows of its products.
    "mlp_weight_gradients": tuple(
        Config(rows=rows, columns=columns, warps=warps, stages=stages, programs=programs)
        for rows, columns, warps in ((64, 64, 4), (64, 128, 8), (32, 128, 8), (32, 64, 4))
        for stages in (2, 3, 4)
        for programs in (132, 264, 528)
    ),
    "linear_norm_add": cross(rows=(64, 128), depth=(32, 64), warps=(4, 8), stages=(2, 3, 4)),
    "linear_norm_backward": cross(
        rows=(64, 128), columns=(32, 64), depth=(32, 64), warps=(4, 8), stages=(2, 3)
    ),
    "attention_forward": tuple(
        Config(warps=warps, stages=stages, registers=registers, programs=programs)
        for warps, stages in ((4, 2), (4, 3), (2, 2))
        for registers in (None, 96, 128, 168)
        for programs in (1056, 2112, 4224)
    ),
    "attention_backward": tuple(
        Config(warps=warps, stages=stages, registers=registers, programs=programs)
        for warps, stages in ((4, 2), (4, 3), (8, 2))
        for registers in (None, 128, 168)
        for programs in (132, 264, 528, 1056)
    ),
}


def candidates(part: int = 0, parts: int = 1) -> Callable[[Work], list[Config]]:
    """Of each piece of work: what would be taken, and one part of the others."""

    def listed(work: Work) -> list[Config]:
        taken = tuning.untried(work.kernel, work.channels, work.dtype)
        others = [
            one for one in WIDE.get(work.kernel) or tuning.CANDIDATES[work.kernel] if one != taken
        ]
        return [taken, *others[part::parts]]

    return listed


def time_parameters(
    run: Callable[[], object],
    seconds: Callable[[Callable], float],
    candidates: Callable[[Work], list[Config]],
) -> list[dict]:
    """Rows of :data:`COLUMNS` of what ``run`` starts in 16 bits, the fastest of each kernel first.

    Args:
        run: steps, whose kernels were compiled before.
        seconds: times a call.
        candidates: for a piece of work.
    """
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(Path(folder) / "kernels.json", "this run", read=False)
        tuner = Tuner(memory, "this card", seconds, candidates)
        with _in_use(tuner):
            run()
    return [
        {
            "kernel": work.kernel,
            "channels": work.channels,
            "bits": 8 * work.dtype.itemsize,
            "rows_about": 2**work.bucket,
            **{name: "" if value is None else value for name, value in one._asdict().items()},
            "ms": round(1e3 * taken, 4),
        }
        for work, times in tuner.times.items()
        for one, taken in sorted(times.items(), key=lambda item: item[1])
    ]


@contextmanager
def _in_use(tuner: Tuner) -> Iterator[None]:
    before, tuning.chosen_tuner = tuning.chosen_tuner, tuner
    forget_launches()
    try:
        yield
    finally:
        tuning.chosen_tuner = before
        forget_launches()


def only_compiled(run: Callable[[], object]) -> float:
    """In the place of a time: the candidate is compiled, and Triton keeps it on disk."""
    run()
    torch.cuda.synchronize()
    return 0.0


def seconds_by_graph(run: Callable[[], object]) -> float:
    """Of one call, the device's alone, by a CUDA graph of several."""
    run()
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for _ in range(CALLS):
            run()
    best = float("inf")
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3 / CALLS)
    return best
