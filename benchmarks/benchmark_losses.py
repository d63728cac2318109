"""Time losses on resized scores, resizing and class maps against PyTorch's ways.

    python benchmarks/benchmark_losses.py [--shape 16 150 128 128 512 512] [--dtype bfloat16]
                                     [--compiled] [--out FILE.csv]

Random scores and label maps in blocks of 32 pixels, some ignored. Times are medians, in ms, of
forward, and of forward and backward; memory is the peak above what the inputs take. Peers: PyTorch
(``F.interpolate`` and ``F.cross_entropy``, with and without ``topk`` for the accuracy), the same
under ``torch.compile``, and image by image with recomputation.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from swin_backbone import ops
from swin_backbone.atomic_files import write_text
from swin_backbone.cli.argument_types import positive
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.csv_text import as_csv

IGNORED = 255
FIELDS = ("what", "way", "forward ms", "both ms", "peak MB")


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    parser.add_argument("--shape", type=positive, nargs=6, default=(16, 150, 128, 128, 512, 512),
                        metavar=("B", "K", "h", "w", "H", "W"))  # fmt: skip
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=positive, default=11)
    parser.add_argument("--compiled", action="store_true", help="torch.compile the peers too")
    parser.add_argument("--only", help="measure what has this in its name")
    parser.add_argument("--out", type=Path, help="CSV file for the results")
    arguments = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    about = {
        "date": date.today().isoformat(),
        "card": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
        "triton": version("triton") if device == "cuda" else "",
        "shape": "x".join(map(str, arguments.shape)),
        "dtype": arguments.dtype,
    }
    rows = []
    for what, way, step, inputs in cases(arguments, device):
        if arguments.only and arguments.only not in f"{what} {way}":
            continue
        row = dict(zip(FIELDS, (what, way, *measure(step, inputs, arguments.repeats)), strict=True))
        print(*(f"{v:12.3f}" if isinstance(v, float) else f"{v:34}" for v in row.values()))
        rows.append(about | row)
    if arguments.out is not None:
        write_text(arguments.out, as_csv(rows, [*about, *FIELDS]))


def cases(arguments, device: str):
    """What is measured: names, a function to a scalar, or to something without a gradient, and its
    inputs."""
    batch, classes, low_height, low_width, height, width = arguments.shape
    dtype, size = getattr(torch, arguments.dtype), (height, width)
    x = torch.randn(batch, classes, low_height, low_width, device=device, dtype=dtype)
    labels = draw_labels(batch, classes, height, width, device)
    last = x.to(memory_format=torch.channels_last)
    ways = dict(LOSSES)
    if arguments.compiled:
        ways["PyTorch, compiled"] = torch.compile(stock)
        ways["PyTorch with topk, compiled"] = torch.compile(stock_with_topk)
    for name, way in ways.items():
        yield "cross entropy", name, way, (x, labels)
    yield "cross entropy, channels last", "PyTorch", stock, (last, labels)
    yield "cross entropy, channels last", "ours", ours, (last, labels)
    yield "binary cross entropy", "PyTorch", stock_binary, (x, labels)
    yield "binary cross entropy", "ours", ours_binary, (x, labels)
    for layout, maps in (("contiguous", x), ("channels last", last)):
        yield f"resize, {layout}", "PyTorch", lambda m: stock_resize(m, size), (maps,)
        yield f"resize, {layout}", "ours", lambda m: ops.resize_bilinear(m, size), (maps,)
    with torch.no_grad():
        whole, shrunk = ops.Geometry(size), ops.Geometry(size, out_size=(height - 3, width + 5))
        for name, geometry in (("class map", whole), ("class map, resized twice", shrunk)):
            for way in ("reference", "auto"):
                yield name, way, class_map(geometry, way), (x,)


def draw_labels(batch, classes, height, width, device) -> Tensor:
    """(B, H, W) int64 in blocks."""
    blocks = torch.randint(classes, (batch, 1, -(-height // 32), -(-width // 32))).float()
    labels = F.interpolate(blocks, scale_factor=32)[:, 0, :height, :width].long()
    labels[:, : height // 16] = IGNORED
    return labels.to(device)


def stock_resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def stock(x: Tensor, labels: Tensor) -> Tensor:
    scores = stock_resize(x, labels.shape[1:]).float()
    return F.cross_entropy(scores, labels, ignore_index=IGNORED)


def stock_with_topk(x: Tensor, labels: Tensor) -> Tensor:
    """With the accuracy that mmseg logs."""
    scores = stock_resize(x, labels.shape[1:])
    right = scores.topk(1, dim=1)[1].squeeze(1).eq(labels)[labels != IGNORED].float().sum()
    return F.cross_entropy(scores.float(), labels, ignore_index=IGNORED) + 0 * right


def by_images(x: Tensor, labels: Tensor) -> Tensor:
    """One image's scores at a time, recomputed in the backward pass."""
    sums = [
        checkpoint(_sum_of_image, x[i : i + 1], labels[i : i + 1], use_reentrant=False)
        for i in range(len(x))
    ]
    return torch.stack(sums).sum() / (labels != IGNORED).sum()


def _sum_of_image(x: Tensor, labels: Tensor) -> Tensor:
    scores = stock_resize(x, labels.shape[1:]).float()
    return F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")


def ours(x: Tensor, labels: Tensor) -> Tensor:
    return ops.resized_cross_entropy(x, labels, ignore_index=IGNORED, avg_non_ignore=True).loss


def tiled(x: Tensor, labels: Tensor) -> Tensor:
    return ops.resized_cross_entropy(
        x, labels, ignore_index=IGNORED, avg_non_ignore=True, impl="tiled"
    ).loss


def ours_binary(x: Tensor, labels: Tensor) -> Tensor:
    return ops.resized_binary_cross_entropy(x, labels, ignore_index=IGNORED).loss


def stock_binary(x: Tensor, labels: Tensor) -> Tensor:
    scores = stock_resize(x, labels.shape[1:]).float()
    counted = labels != IGNORED
    target = F.one_hot(torch.where(counted, labels, 0), x.shape[1]).permute(0, 3, 1, 2)
    loss = F.binary_cross_entropy_with_logits(scores, target.float(), reduction="none")
    return (loss * counted.unsqueeze(1)).mean()


LOSSES = {
    "PyTorch": stock,
    "PyTorch with topk": stock_with_topk,
    "PyTorch, image by image": by_images,
    "ours, in PyTorch by bands": tiled,
    "ours": ours,
}


def class_map(geometry: ops.Geometry, impl: str) -> Callable:
    def step(x: Tensor) -> Tensor:
        return ops.resized_argmax(x, geometry, impl=impl).classes

    return step


def measure(step: Callable, inputs: tuple[Tensor, ...], repeats: int) -> tuple[float, float, float]:
    """Median times of forward, and with backward, in ms, and peak memory above the inputs in MB."""
    maps, *others = inputs
    leaf = maps.detach().requires_grad_()
    grads: list[Tensor] = []

    def both() -> None:
        out = step(leaf, *others)
        if not out.requires_grad:
            return
        if out.dim() and not grads:
            grads.append(torch.randn_like(out))
        torch.autograd.grad(out, leaf, *grads)

    with torch.no_grad():
        forward = timed(lambda: step(maps, *others), repeats)
    total = timed(both, repeats)
    return forward, total, peak(both)


def timed(run: Callable, repeats: int) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        run()
        _wait()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def peak(run: Callable) -> float:
    """0 on a CPU."""
    if not torch.cuda.is_available():
        return 0.0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    _wait()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
