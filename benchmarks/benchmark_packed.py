"""Measure what the padding of a batch costs: packed images and masks against the padded batch.

    python benchmarks/benchmark_packed.py [--arch tiny] [--batch 16] [--batches 8] [--out FILE.json]

Sizes are drawn as in training on COCO at 480-800: the short side from 480 to 800 in steps of 32,
the long one at most 1333, and height / width log-normal, with 90 % between 0.6 and 1.5, as has been
published of COCO's training images
(https://github.com/Lextal/SotA-CV/blob/master/content/datasets/coco_detection.md). As with mmdet's
AspectRatioBatchSampler, a batch is all upright or all oblong; batches are padded to multiples of
32. A step is the backbone's forward and backward pass, in bfloat16 on a GPU and float32 on the CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from swin_backbone import SwinBackbone
from swin_backbone.atomic_files import write_text
from swin_backbone.cli.argument_types import not_negative, number, positive
from swin_backbone.cli.commands import Parser, command
from swin_backbone.model.arguments import ARCHITECTURES

LONGEST, DIVISOR = 1333, 32
#: Mean and deviation of log(height / width): 5 % lie below log(0.6), 5 % above log(1.5).
LOG_MEAN, LOG_DEVIATION = -0.0527, 0.2785
MODES = {"padded": {}, "masked": {"mask_padding": True}, "packed": {"packed": True}}


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    parser.add_argument("--arch", choices=ARCHITECTURES, default="tiny")
    parser.add_argument("--batch", type=positive, default=16, help="images a batch")
    parser.add_argument("--batches", type=positive, default=8, help="batches, three steps each")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the sizes")
    parser.add_argument(
        "--scale",
        type=number(0, 1, above=True),
        default=1.0,
        help="of all sizes, to try the script",
    )
    parser.add_argument("--backend", default="auto", help="attention backend")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    arguments = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = random.Random(arguments.seed)
    batches = [
        draw_sizes(arguments.batch, generator, arguments.scale) for _ in range(arguments.batches)
    ]
    rows = {mode: measure(mode, batches, device, arguments) for mode in MODES}
    waste = padding_fraction(batches)
    print_table(rows, waste, arguments)
    if arguments.out is not None:
        about = {**vars(arguments), "out": None, "torch": torch.__version__, "padding": waste}
        write_text(arguments.out, json.dumps({**about, "modes": rows}))


def draw_sizes(count: int, generator: random.Random, scale: float = 1.0) -> list[tuple[int, int]]:
    """Rows and columns of the images of one batch, all upright or all oblong."""
    sizes: list[tuple[int, int]] = []
    oblong = generator.gauss(LOG_MEAN, LOG_DEVIATION) < 0
    while len(sizes) < count:
        ratio = math.exp(generator.gauss(LOG_MEAN, LOG_DEVIATION))  # height / width
        if (ratio < 1) != oblong:
            continue
        short = generator.choice(range(480, 801, 32))
        long = min(short * max(ratio, 1 / ratio), LONGEST)
        short = min(short, long / max(ratio, 1 / ratio))
        sides = [max(round(scale * side), 1) for side in (short, long)]
        sizes.append(tuple(sides if oblong else sides[::-1]))
    return sizes


def padded_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Rows and columns of a batch."""
    return tuple(-(-max(side) // DIVISOR) * DIVISOR for side in zip(*sizes, strict=True))


def padding_fraction(batches: list[list[tuple[int, int]]]) -> float:
    """Fraction of the batches' pixels that belong to no image."""
    own = sum(rows * columns for sizes in batches for rows, columns in sizes)
    every = [(len(sizes), *padded_size(sizes)) for sizes in batches]
    return 1 - own / sum(count * rows * columns for count, rows, columns in every)


def measure(mode: str, batches, device, arguments) -> dict:
    """Images a second and peak memory of training steps."""
    torch.manual_seed(0)
    model = SwinBackbone(arch=arguments.arch, backend=arguments.backend, **MODES[mode])
    model.init_weights()
    model.to(device).train()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds, parameters = [], list(model.parameters())
    for sizes in batches:
        images = torch.randn(len(sizes), 3, *padded_size(sizes), device=device)
        valid = torch.tensor(sizes) if MODES[mode] else None
        step(model, parameters, images, valid)  # warm up: kernels are chosen by size
        seconds.append(timed(model, parameters, images, valid, device))
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    speed = sum(map(len, batches)) / sum(seconds)
    return {"images_per_second": speed, "peak_memory_mib": peak}


def step(
    model: SwinBackbone, parameters: list[Tensor], images: Tensor, valid: Tensor | None
) -> None:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        maps = model(images, valid) if valid is not None else model(images)
    for parameter in parameters:
        parameter.grad = None
    sum(x.float().square().mean() for x in maps).backward()


def timed(model, parameters, images, valid, device, steps: int = 3) -> float:
    """Seconds a step, of steps that follow each other without waiting, as in training."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step(model, parameters, images, valid)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


def print_table(rows: dict, waste: float, arguments: argparse.Namespace) -> None:
    title = f"Swin-{arguments.arch}, batch {arguments.batch}: {waste:.1%} of the pixels are padding"
    table = Table("mode", "img/s", "against padded", "peak MiB", title=title)
    base = rows["padded"]["images_per_second"]
    for mode, row in rows.items():
        speed, peak = row["images_per_second"], row["peak_memory_mib"]
        table.add_row(mode, f"{speed:.2f}", f"{speed / base:.3f}", f"{peak:.0f}" if peak else "-")
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(main())
