"""Time the operations of detectors: deformable attention, suppression of boxes, RoI align.

    python benchmarks/benchmark_detector_ops.py --csv results.csv
    python benchmarks/benchmark_detector_ops.py --errors --thresholds 0.3 0.5 0.7 --ties

Sizes are those of DINO and Mask R-CNN at 800x1344, two images, and of Mask2Former at 512x512; boxes
lie at random. Ours stands beside mmcv's PyTorch implementation, mmcv's compiled op where this mmcv
has one (it takes no bfloat16), and torchvision. What cannot run is left out. The column ``same``
says whether boxes are torchvision's. With --errors, the distance to float64, of its length: of the
result, then of each gradient.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from benchmarking.detector_ops import (
    DTYPES,
    POINT_CASES,
    REGION_CASES,
    Work,
    attention,
    regions,
    relative_errors,
    suppression,
)
from benchmarking.results import command_line, describe_device, environment_versions, now
from torch import Tensor

from swin_backbone.atomic_files import write_text
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.csv_text import as_csv
from swin_backbone.inference.timing import seconds

COLUMNS = ("date", "device", "torch", "case", "dtype", "way")
COLUMNS += ("forward_ms", "forward_backward_ms", "peak_mib", "same", "errors", "command")
BOXES = (1000, 4000, 8700, 20000)


@command
def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    torch.manual_seed(0)
    lines = []
    for work in works(options):
        for line in measure(work, options):
            print("  ".join(line[name] for name in COLUMNS[3:-1]), flush=True)
            lines.append(line)
    if options.csv:
        write_text(options.csv, as_csv(lines, COLUMNS))
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("--cases", nargs="*", choices=list(POINT_CASES), default=list(POINT_CASES))
    add("--regions", nargs="*", choices=list(REGION_CASES), default=list(REGION_CASES))
    add("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    add("--boxes", nargs="*", type=int, default=list(BOXES), help="numbers of boxes")
    add("--thresholds", nargs="+", type=float, default=[0.7], help="of overlaps")
    add("--ties", action="store_true", help="boxes of whole pixels and scores that tie, too")
    add("--errors", action="store_true", help="distances to float64, too")
    add("--shrink", type=int, default=1, help="divide the sides of images by it")
    add("--repeats", type=int, default=10)
    add("--device", choices=["cuda", "cpu"], default=device)
    add("--csv", type=Path, help="write the results")
    options = parser.parse_args(arguments)
    if min(options.repeats, options.shrink) < 1:
        parser.error("--repeats and --shrink must be at least 1")
    return options


def works(options: argparse.Namespace) -> Iterator[Work]:
    """What is measured, one after the other."""
    for name in options.cases:
        for dtype in options.dtypes:
            yield attention(name, dtype, options.shrink, options.device)
    for name in options.regions:
        for dtype in options.dtypes:
            yield regions(name, dtype, options.shrink, options.device)
    for count in options.boxes:
        for ties in (False, True) if options.ties else (False,):
            for threshold in options.thresholds:
                yield suppression(count, threshold, ties, options.device)


def measure(work: Work, options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """A row for each way."""
    exact = None
    if options.errors and work.exact is not None:
        tensors = [x.detach().double().requires_grad_() for x in work.tensors]
        exact = with_gradients(work.exact, tensors, tensors)
    for way, run in work.ways.items():
        line = dict.fromkeys(COLUMNS, "")
        line |= {"date": now(), "device": describe_device(options.device)}
        line |= {"torch": environment_versions()["torch"], "command": command_line()}
        line |= {"case": work.case, "dtype": work.dtype, "way": way}
        line |= times(run, work, options)
        if work.right is not None:
            right = work.ways[work.right](*work.tensors)
            line["same"] = "yes" if torch.equal(run(*work.tensors), right) else "no"
        if exact is not None:
            found = with_gradients(run, work.tensors, work.learnt)
            line["errors"] = relative_errors(found, exact)
        yield line


def with_gradients(run: Callable, tensors: list, learnt: list[Tensor]) -> list[Tensor]:
    """The result, and gradients for the same random gradient of it each time."""
    out = run(*tensors)
    generator = torch.Generator(out.device).manual_seed(0)
    grad = torch.randn(out.shape, generator=generator, device=out.device)
    # Of numbers that every dtype holds.
    grad = grad.bfloat16().to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, learnt, grad, materialize_grads=True)]


def times(run: Callable, work: Work, options: argparse.Namespace) -> dict[str, str]:
    """Medians, and the peak of memory of forward and backward above what was there."""

    def forward():
        with torch.no_grad():
            run(*work.tensors)

    def both():
        out = run(*work.tensors)
        torch.autograd.grad(out, work.learnt, torch.ones_like(out), allow_unused=True)

    found = {"forward_ms": f"{median(forward, options):.3f}"}
    if work.learnt:
        found["forward_backward_ms"] = f"{median(both, options):.3f}"
    if work.learnt and options.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        both()
        torch.cuda.synchronize()
        found["peak_mib"] = f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"
    return found


def median(step: Callable[[], None], options: argparse.Namespace) -> float:
    """Milliseconds, after two calls that are not counted."""
    step()
    step()
    return 1e3 * statistics.median(seconds(step, options.device) for _ in range(options.repeats))


if __name__ == "__main__":
    sys.exit(main())
