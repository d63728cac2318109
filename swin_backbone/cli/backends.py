"""Which fast ways can be taken on the devices at hand, and why not the others: found by trying."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from ..ops import BACKENDS, AttentionInputs, WindowGrid, Windows, compute_dtype, dispatch

#: A small map with Swin-T's first stage's channels and heads, in windows that are shifted.
SIDE, CHANNELS, HEADS = 14, 96, 3
WINDOW, SHIFT = (7, 7), (3, 3)
#: Dtypes of a model, and of autocast around it.
KINDS: tuple[tuple[torch.dtype, torch.dtype | None], ...] = (
    (torch.float32, None),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, None),
    (torch.float16, None),
)


def devices() -> list[torch.device]:
    """The CPU, then every GPU that torch can use."""
    return [torch.device("cpu"), *(torch.device("cuda", n) for n in range(_gpus()))]


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def describe_backends(device: torch.device) -> Iterator[tuple[str, str]]:
    """What runs a model on a device, and why not what is faster, for each kind of model.

    Attention is run once with each, so a compiler that is missing shows.

    Yields:
        Device and kinds, and what runs them: kinds of the same answer together.
    """
    kinds: dict[str, list[str]] = {}
    for dtype, autocast in KINDS:
        words = str(dtype).removeprefix("torch.")
        around: AbstractContextManager = nullcontext()
        if autocast is not None:
            words += f" in {str(autocast).removeprefix('torch.')} autocast"
            around = torch.autocast(device.type, autocast)
        x = torch.zeros(1, SIDE, SIDE, CHANNELS, dtype=dtype, device=device)
        with around, torch.inference_mode():
            kinds.setdefault(_describe(x), []).append(words)
    for answer, models in kinds.items():
        yield f"on {device}", f"{', '.join(models)}: {answer}"


def _describe(x: torch.Tensor) -> str:
    inputs = _attention_on(x)
    name = dispatch.attention(inputs)
    problem = _try_to_run(inputs, name)
    reason = dispatch.why_not_fused(x, "auto", Windows(HEADS, WINDOW, SHIFT, 1.0))
    parts = [
        f"attention by {name!r}" + (f", which FAILS ({problem})" if problem else ""),
        "fused blocks" if reason is None else f"no fused blocks ({reason})",
    ]
    refusals = {other: why_not(inputs) for other, why_not in dispatch.ATTENTION.items()}
    parts += [f"not {other!r} ({reason})" for other, reason in refusals.items() if reason]
    return "; ".join(parts)


def _attention_on(x: torch.Tensor) -> AttentionInputs:
    """A call of the attention, in the dtype in which a model with the map ``x`` computes it."""
    qkv = x.to(compute_dtype(x)).repeat(1, 1, 1, 3)
    table = qkv.new_zeros((2 * WINDOW[0] - 1) * (2 * WINDOW[1] - 1), HEADS)
    grid = WindowGrid(SIDE, SIDE, WINDOW, SHIFT)
    return AttentionInputs(qkv, table, None, grid, HEADS, scale=1.0, dropout_p=0.0)


def _try_to_run(inputs: AttentionInputs, name: str) -> str | None:
    """What went wrong, as one line, or ``None``."""
    try:
        BACKENDS[name](inputs)
        if inputs.qkv.is_cuda:
            torch.cuda.synchronize(inputs.qkv.device)
    except Exception as error:  # of whatever kind: it is what the report is for
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None
