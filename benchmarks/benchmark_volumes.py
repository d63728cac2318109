"""Windows of clips and scans: torchvision's 3-D attention, and a prototype of ours.

    python benchmarks/benchmark_volumes.py
    python benchmarks/benchmark_volumes.py --device cpu --cases clip --repeats 3

Both have the same weights, projections included, and are compared before they are timed, forward
and backward; on a GPU in bfloat16 autocast. The prototype is not part of the package: see
docs/lab/2026-11-29-windows-of-volumes.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from benchmarking.runners import Runner, take_turns
from benchmarking.volume_windows import Size, attend_in_volume
from torch import Tensor, nn

from swin_backbone.cli.commands import Parser, command
from swin_backbone.device_memory import peak_on_gpu
from swin_backbone.inference.timing import Deadline, wall_seconds


class Case(NamedTuple):
    """A block's attention; sizes in tokens."""

    size: Size
    window: Size
    channels: int
    heads: int
    batch: int


CASES = {
    # Video Swin, first and third stage: 16 frames of 224x224.
    "clip": Case((8, 56, 56), (8, 7, 7), 96, 3, 1),
    "clip-stage3": Case((8, 14, 14), (8, 7, 7), 384, 12, 4),
    # SwinUNETR, first stage: a scan of 96x96x96.
    "scan": Case((48, 48, 48), (7, 7, 7), 48, 3, 1),
    "small": Case((4, 9, 6), (2, 4, 4), 16, 2, 2),
}


@command
def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    print("case,shifted,mode,way,ms,times,peak_gb", flush=True)
    for name in options.cases:
        for shifted in (False, True):
            measure(name, shifted, options)
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES)[:3])
    add("--repeats", type=int, default=5, help="rounds")
    add("--device", choices=["cuda", "cpu"], default=device)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    return options


def theirs(case: Case, shifted: bool) -> nn.Module:
    from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

    shift = [
        w // 2 if shifted and n > w else 0 for n, w in zip(case.size, case.window, strict=True)
    ]
    module = ShiftedWindowAttention3d(case.channels, list(case.window), shift, case.heads)
    nn.init.normal_(module.relative_position_bias_table)
    return module


def ours(module: nn.Module, x: Tensor) -> Tensor:
    """By the parameters of :func:`theirs`."""
    attended = attend_in_volume(
        module.qkv(x), module.relative_position_bias_table, module.num_heads, module.window_size,
        module.shift_size, module.qkv.bias,
    )  # fmt: skip
    return module.proj(attended)


def measure(name: str, shifted: bool, options) -> None:
    case, device = CASES[name], options.device
    torch.manual_seed(0)
    module = theirs(case, shifted).to(device)
    x = torch.randn(case.batch, *case.size, case.channels, device=device, requires_grad=True)
    ways = {"torchvision": module, "prototype": lambda x: ours(module, x)}
    with torch.no_grad():
        a, b = (way(x) for way in ways.values())
    if (a - b).norm() > 1e-3 * a.norm():  # a GPU may multiply float32 in less
        raise ValueError(f"{name}: the two differ by {(a - b).norm() / a.norm():.1e}")
    for mode in ("forward", "train"):
        runners = [
            Runner(way, module, x, step_of(run, x, mode, device)) for way, run in ways.items()
        ]
        for runner in runners:
            for _ in range(2):
                wall_seconds(runner.step, device)
            if device == "cuda":
                runner.peak_bytes = peak_on_gpu(module, x, runner.step)
        take_turns(runners, device, options.repeats, Deadline())
        first = statistics.median(runners[0].samples)
        for runner in runners:
            median = statistics.median(runner.samples)
            peak = f"{runner.peak_bytes / 1e9:.2f}" if runner.peak_bytes else ""
            row = name, shifted, mode, runner.name, f"{1e3 * median:.2f}", f"{first / median:.2f}"
            print(*row, peak, sep=",", flush=True)


def step_of(run: Callable, x: Tensor, mode: str, device: str) -> Callable[[], None]:
    def step() -> None:
        gradients = torch.set_grad_enabled(mode == "train")
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"), gradients:
            out = run(x)
        if mode == "train":
            out.backward(torch.ones_like(out))

    return step


if __name__ == "__main__":
    sys.exit(main())
