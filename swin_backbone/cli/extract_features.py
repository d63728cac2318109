"""Extract features of images or of the frames of a video, into shards that pandas finds its way in.

    swin-backbone extract-features INPUT OUT --model CONFIG --checkpoint CHECKPOINT
    swin-backbone extract-features 'photos/**/*.jpg' OUT --model tiny --stages 2 3 --dense
    swin-backbone extract-features photos OUT --model base --engine ray --workers 8

INPUT is a folder, a quoted glob, an image, a video, or a .txt list of paths. Images keep their
size: those of one size form batches, and none is padded. The same command goes on where a killed
one stopped. An image that cannot be read is named in the index and at the end, and the exit status
is then 1. docs/features.md says how to read the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..inference.media_files import on_one_line
from .argument_types import backbone, integer, number, positive
from .argument_types import device as device_type
from .commands import Parser, command

if TYPE_CHECKING:  # else imported where it is used: what an extra lacks is then one line
    from ..inference.features import Job

console = Console(stderr=True, soft_wrap=True)  # paths stay whole


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from ..inference.features import DTYPES

    parser = Parser(__file__, description="Extract features of many images.")
    parser.add_argument("input", help="folder, glob, image, video or .txt list")
    parser.add_argument("out", type=Path, help="folder for shards and index")
    parser.add_argument(
        "--model", type=backbone, required=True, help="a config, its name, or an architecture"
    )
    parser.add_argument("--checkpoint", help="path or address; default: the config's")
    parser.add_argument(
        "--stages", type=integer(0, 3), nargs="+", default=[3], help="default: 3, the last"
    )
    parser.add_argument("--dense", action="store_true", help="maps instead of their means")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--every", type=positive, default=1, help="take every N-th video frame")
    parser.add_argument("--batch-size", type=positive, default=16)
    parser.add_argument("--shard-size", type=positive, default=256, help="images a shard")
    parser.add_argument("--threads", type=positive, default=4, help="images decoded at a time")
    parser.add_argument(
        "--device", type=device_type, help="default: cuda if there is one, else cpu"
    )
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--workers", type=positive, default=1, help="actors of --engine ray")
    parser.add_argument(
        "--gpus-per-worker",
        type=number(0),
        default=1.0 if torch.cuda.is_available() else 0.0,
        help="GPUs of an actor of --engine ray; default: 1 where this machine has one",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="go on where a checkpoint lacks tensors"
    )
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    from ..inference.features import ExtractorSettings, Job, find_items
    from ..inference.features.shards import write_index

    settings = ExtractorSettings(
        arguments.model,
        arguments.checkpoint,
        tuple(sorted(set(arguments.stages))),
        not arguments.dense,
        arguments.dtype,
    )
    out = arguments.out.resolve()
    items = find_items(arguments.input, arguments.every)
    job = Job(out, items, settings, arguments.shard_size)
    shards = job.start()
    if len(shards) < job.num_shards:
        console.print(f"{job.num_shards - len(shards)} of {job.num_shards} shards are there")
    if shards:
        run(job, shards, arguments)
    index = write_index(out, job.num_shards).to_pylist()
    unreadable = [row for row in index if row["status"] != "ok"]
    console.print(
        f"features of {len(index) - len(unreadable)} images in {escape(str(arguments.out))}"
    )
    for row in unreadable:
        skipped = escape(f"{on_one_line(row['path'])}: {row['error']}")
        console.print(f"[red]skipped[/red] {skipped}", highlight=False)
    return 1 if unreadable else 0


def run(job: Job, shards: list[int], arguments: argparse.Namespace) -> None:
    """Do shards on the chosen engine, with a progress bar."""
    from ..inference.features.engines import run_locally, run_on_ray

    options = {
        "device": arguments.device,
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "allow_missing": arguments.allow_missing,
    }
    with Progress(
        TextColumn("extracting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        left = sum(len(job.items_of(shard)) for shard in shards)
        task = progress.add_task("", total=len(job.items), completed=len(job.items) - left)

        def advance(count: int) -> None:
            progress.advance(task, count)

        if arguments.engine == "ray":
            workers = {"workers": arguments.workers, "gpus_per_worker": arguments.gpus_per_worker}
            run_on_ray(job, shards, advance, **workers, **options)
        else:
            run_locally(job, shards, advance, **options)
