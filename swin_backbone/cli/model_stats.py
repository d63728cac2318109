"""Count the parameters and FLOPs of configs.

    swin-backbone model-stats [CONFIG ...]      (default: every config of the project)

Parameters are all of the model's, with the auxiliary head. FLOPs are the multiply-adds of
predicting one image, in a training crop and at the size of test images.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..config_files import config_path, list_configs
from ..openmmlab.model_statistics import Stats, measure
from .argument_types import config as config_type
from .commands import Parser, command


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    parser.add_argument(
        "configs", type=config_type, nargs="*", help="configs, or their names; default: all"
    )
    configs = parser.parse_args(argv).configs or map(config_path, list_configs())
    console = Console()
    counting = track(list(configs), "counting", console=console, transient=True)
    console.print(as_rich(in_order([measure(path) for path in counting])))


def in_order(stats: list[Stats]) -> list[Stats]:
    """By data set, then by size."""
    return sorted(stats, key=lambda s: (s.path.stem.split("_")[-1], s.parameters, s.path.stem))


def as_rich(stats: list[Stats]) -> Table:
    """A table for the terminal."""
    table = Table("config", title="parameters, and multiply-adds for one image")
    for heading in ("parameters", "crop", "test image"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in stats:
        table.add_row(row.path.stem, *as_cells(row))
    return table


def as_cells(row: Stats) -> list[str]:
    """Parameters, and FLOPs at both sizes."""
    sizes = (as_gflops(row.crop_flops, row.crop), as_gflops(row.test_flops, row.test))
    return [f"{row.parameters / 1e6:.2f} M", *sizes]


def as_gflops(flops: int | None, size: tuple[int, int] | None) -> str:
    if flops is None or size is None:
        return ""
    return f"{flops / 1e9:.1f} G ({size[0]}x{size[1]})"
