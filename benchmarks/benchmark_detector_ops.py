"""Time the operations of detectors: multi-scale deformable attention and suppression of boxes.

    python benchmarks/benchmark_detector_ops.py --csv results.csv

Sizes are those of DINO at 800x1344, two images, and of Mask2Former at 512x512; boxes lie at random.
Ours stands beside mmcv's PyTorch implementation, mmcv's compiled op where this mmcv has one
(it takes no bfloat16), and torchvision. What cannot run is left out.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

import torch
from benchmarking.results import describe_device, environment_versions, now
from torch import Tensor

from swin_backbone import ops
from swin_backbone.atomic_files import write_text
from swin_backbone.cli.commands import Parser, command
from swin_backbone.inference.timing import seconds

COLUMNS = ("date", "device", "torch", "case", "dtype", "way")
COLUMNS += ("forward_ms", "forward_backward_ms", "peak_mib")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HEADS, CHANNELS, POINTS = 8, 32, 4


class Points(NamedTuple):
    """A layer: image size, strides of its levels, images, and queries (``None``: each pixel)."""

    size: tuple[int, int]
    strides: tuple[int, ...]
    batch: int
    queries: int | None

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [tuple(-(-side // stride) for side in self.size) for stride in self.strides]


CASES = {
    "dino encoder": Points((800, 1344), (8, 16, 32, 64), 2, None),
    "dino decoder": Points((800, 1344), (8, 16, 32, 64), 2, 900),
    "mask2former b2": Points((512, 512), (8, 16, 32), 2, None),
    "mask2former b8": Points((512, 512), (8, 16, 32), 8, None),
}
BOXES = (1000, 4000, 8700, 20000)


@command
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    add("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    add("--boxes", nargs="*", type=int, default=list(BOXES), help="numbers of boxes")
    add("--shrink", type=int, default=1, help="divide the sides of images by it")
    add("--repeats", type=int, default=10)
    add("--device", choices=["cuda", "cpu"], default=device)
    add("--csv", type=Path, help="write the results")
    options = parser.parse_args(arguments)
    if min(options.repeats, options.shrink) < 1:
        parser.error("--repeats and --shrink must be at least 1")
    torch.manual_seed(0)
    lines = []
    for line in (*deformable_attention(options), *suppression(options)):
        print("  ".join(line[name] for name in COLUMNS[3:]), flush=True)
        lines.append(line)
    if options.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
        write_text(options.csv, text.getvalue())
    return 0


def deformable_attention(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    for name in options.cases:
        case = CASES[name]
        case = case._replace(size=tuple(side // options.shrink for side in case.size))
        for dtype in options.dtypes:
            tensors = draw_points(case, DTYPES[dtype], options.device)
            for way, run in ways(case.shapes, DTYPES[dtype], options.device):
                yield measure(f"{name} points", dtype, way, run, tensors, options)


def draw_points(case: Points, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Value, locations some pixels around each query's own place, and weights."""
    keys = sum(height * width for height, width in case.shapes)
    queries = case.queries or keys
    sides = torch.tensor(case.shapes, dtype=torch.float32).flip(1)
    grid = (case.batch, queries, HEADS, len(sides), POINTS)
    around = 3 * torch.randn(*grid, 2) / sides[:, None]
    locations = torch.rand(1, queries, 1, 1, 1, 2) + around
    weights = torch.randn(grid).flatten(3).softmax(-1).view(grid)
    value = torch.randn(case.batch, keys, HEADS, CHANNELS)
    return [x.to(device, dtype).requires_grad_() for x in (value, locations, weights)]


def ways(shapes: list, dtype: torch.dtype, device: str) -> Iterator[tuple[str, Callable]]:
    """Functions of value, locations and weights."""
    import mmcv
    from mmcv.ops import multi_scale_deform_attn as stock

    from swin_backbone.openmmlab.mmcv_ext import EXTENSION

    yield "ours", lambda v, x, w: ops.multi_scale_deformable_attention(v, shapes, x, w)
    sizes = torch.tensor(shapes)
    yield (
        "mmcv, PyTorch",
        lambda v, x, w: stock.multi_scale_deformable_attn_pytorch(v, sizes, x, w),
    )
    compiled = PathFinder.find_spec(EXTENSION, mmcv.__path__) is not None
    if compiled and dtype != torch.bfloat16 and device == "cuda":
        there = sizes.to(device)
        starts = torch.cat([there.new_zeros(1), there.prod(1).cumsum(0)[:-1]])
        apply = stock.MultiScaleDeformableAttnFunction.apply
        yield "mmcv, compiled", lambda v, x, w: apply(v, there, starts, x, w, 64)


def suppression(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    from torchvision.ops import nms

    for count in options.boxes:
        corner = torch.rand(count, 2, device=options.device) * 1300
        boxes = torch.cat([corner, corner + 4 + 150 * torch.rand_like(corner)], 1)
        scores = torch.rand(count, device=options.device)
        for way, run in (("ours", ops.non_maximum_suppression), ("torchvision", nms)):
            yield measure(f"{count} boxes", "float32", way, run, [boxes, scores, 0.7], options)


def measure(case, dtype, way, run, tensors, options: argparse.Namespace) -> dict[str, str]:
    """A row: medians, and the peak of memory of forward and backward above what was there."""

    def forward():
        with torch.no_grad():
            run(*tensors)

    def both():
        out = run(*tensors)
        torch.autograd.grad(out, tensors, torch.ones_like(out))

    learns = isinstance(tensors[-1], Tensor) and tensors[-1].requires_grad
    line = dict.fromkeys(COLUMNS, "")
    line |= {"date": now(), "device": describe_device(options.device)}
    line |= {"torch": environment_versions()["torch"], "case": case, "dtype": dtype, "way": way}
    line["forward_ms"] = f"{median(forward, options):.3f}"
    if learns:
        line["forward_backward_ms"] = f"{median(both, options):.3f}"
    if learns and options.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        both()
        torch.cuda.synchronize()
        line["peak_mib"] = f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"
    return line


def median(step: Callable[[], None], options: argparse.Namespace) -> float:
    """Milliseconds, after two calls that are not counted."""
    step()
    step()
    return 1e3 * statistics.median(seconds(step, options.device) for _ in range(options.repeats))


if __name__ == "__main__":
    sys.exit(main())
