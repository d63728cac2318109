"""Time the model of a config: as it is, with OpenMMLab's own Swin, and accelerated.

    swin-backbone benchmark CONFIG
    swin-backbone benchmark CONFIG --size 512 512 --batch 8 --modes predict --csv times.csv

The model has random weights and sees random images. A call of ``predict`` gives class maps or
detections; one of ``train`` is forward, losses, backward and a step of AdamW. All ways take turns,
so that what else the machine does falls on all alike. On a GPU they run in bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ..acceleration import accelerate
from ..atomic_files import write_text
from ..device_memory import give_back_memory, peak_on_gpu
from ..inference.timing import Deadline, interleave
from ..openmmlab.mmengine_configs import read_config
from ..openmmlab.random_batches import random_batch
from ..openmmlab.stock_backbones import with_stock_backbone
from ..openmmlab.whole_models import build_whole_model, kind_of
from .argument_types import config as config_type
from .argument_types import device as device_type
from .argument_types import positive
from .commands import Parser, command
from .config_options import add_config_options
from .csv_text import as_csv

MODES = ("predict", "train")
WAYS = ("stock", "config", "accelerated")
#: Sides of images where a config has no crop, in pixels.
SIZE = {"segmentor": (512, 512), "detector": (800, 1280)}
COLUMNS = ("mode", "way", "backbone", "ms", "images_per_second", "peak_mib", "note")


@dataclass
class Contender:
    """One way of running one mode.

    Attributes:
        way: of :data:`WAYS`.
        backbone: name of its class.
        model: what runs.
        images: what it gets, (B, 3, H, W).
        step: one call.
        samples: seconds of the timed calls.
        note: why there is no measurement.
        peak: bytes of memory on a GPU.
    """

    way: str
    backbone: str
    model: nn.Module
    images: Tensor
    step: Callable[[], object]
    calls: int = 1
    in_a_row: bool = True
    samples: list[float] = field(default_factory=list)
    note: str = ""
    peak: int | None = None

    def fail(self, error: Exception) -> None:
        """No more turns, and why."""
        self.note = _in_short(error)

    def release(self) -> None:
        """Give back memory at the end of a turn."""
        self.model.zero_grad(set_to_none=True)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    parser.add_argument("config", type=config_type, help="a config, or its name")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--size", type=positive, nargs=2, metavar=("H", "W"), help="default: the config's crop"
    )
    parser.add_argument("--batch", type=positive, default=2, help="images at a time")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of each way")
    parser.add_argument(
        "--device", type=device_type, help="default: cuda if there is one, else cpu"
    )
    parser.add_argument("--csv", type=Path, help="also write the table there")
    add_config_options(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    cfg = read_config(arguments.config, arguments.cfg_options)
    kind = kind_of(cfg, f"config {arguments.config!r}")
    size = tuple(arguments.size or crop_of(cfg) or SIZE[kind])
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict] = []
    for mode in arguments.modes:
        rows += measure(cfg, mode, arguments.ways, arguments.batch, size, device, arguments.repeats)
    title = f"{Path(arguments.config).stem}, {arguments.batch}x{size[0]}x{size[1]}, {device}"
    Console().print(as_table(rows, title))
    if arguments.csv is not None:
        write_text(arguments.csv, with_versions(rows))
    return 0 if any(row["ms"] for row in rows) else 1


def measure(
    cfg: Config,
    mode: str,
    ways: Sequence[str],
    batch: int,
    size: tuple[int, int],
    device: str,
    repeats: int,
) -> Iterator[dict]:
    """One row of the table for each way of running a mode.

    Args:
        cfg: a whole config.
        mode: of :data:`MODES`.
        ways: of :data:`WAYS`; where there is no stock backbone, its row says why.
        batch: images at a time.
        size: their rows and columns, in pixels.
        device: where the model runs.
        repeats: turns of each way; a median is taken.
    """
    contenders, failed = [], []
    for way in ways:
        try:
            contenders.append(make_contender(cfg, way, mode, batch, size, device))
        except ValueError as error:
            if way != "stock":
                raise  # of the user's own model
            failed.append({"mode": mode, "way": way, "note": _in_short(error)})
    for _ in interleave(contenders, device, repeats + 1, Deadline()):
        pass
    for one in contenders:
        if torch.device(device).type == "cuda" and not one.note:
            one.peak = peak_on_gpu(one.model, one.images, one.step)
        yield as_row(one, mode, batch)
    yield from ({**dict.fromkeys(COLUMNS), **row} for row in failed)
    contenders.clear()
    give_back_memory()


def make_contender(
    cfg: Config, way: str, mode: str, batch: int, size: tuple[int, int], device: str
) -> Contender:
    """A way of running a mode, ready to be timed.

    Raises:
        ValueError: if OpenMMLab has no such backbone, or the config's model cannot be built.
    """
    chosen = with_stock_backbone(cfg) if way == "stock" else cfg
    model = build_whole_model(chosen, for_training=mode == "train").to(device)
    if way == "accelerated":
        accelerate(model)
    data = random_batch(model, batch, size, device)
    step = train_step(model, data, device) if mode == "train" else predict_step(model, data, device)
    return Contender(way, type(model.backbone).__name__, model, data["inputs"], step)


def train_step(model: nn.Module, data: dict, device: str) -> Callable[[], Tensor]:
    """Forward, losses, backward, and a step of AdamW."""
    model.train()
    kind = torch.device(device).type
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=kind == "cuda")

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            losses = model(**data, mode="loss")
        loss, _ = model.parse_losses(losses)
        loss.backward()
        optimizer.step()
        return loss

    return step


def predict_step(model: nn.Module, data: dict, device: str) -> Callable[[], list]:
    """Class maps, or detections."""
    model.eval()
    kind = torch.device(device).type

    def step() -> list:
        samples = [sample.clone() for sample in data["data_samples"]]
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            return model(data["inputs"], samples, mode="predict")

    return step


def as_row(one: Contender, mode: str, batch: int) -> dict:
    """Medians; the first turn, in which kernels are built, is left out."""
    row: dict = dict.fromkeys(COLUMNS)
    row |= {"mode": mode, "way": one.way, "backbone": one.backbone, "note": one.note}
    if one.note:
        return row
    seconds = statistics.median(one.samples[1:])
    row |= {"ms": 1e3 * seconds, "images_per_second": batch / seconds}
    if one.peak is not None:
        row["peak_mib"] = one.peak / 2**20
    return row


def as_table(rows: Sequence[dict], title: str) -> Table:
    """A table for the terminal; how many times as fast as the stock backbone, where that ran."""
    table = Table(title=title)
    for heading in ("mode", "way"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ms", "images/s", "to stock", "peak MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    stock = {row["mode"]: row["ms"] for row in rows if row["way"] == "stock"}
    for row in rows:
        ms, base = row["ms"], stock.get(row["mode"])
        table.add_row(
            row["mode"],
            row["way"],
            f"{ms:.1f}" if ms else "-",
            f"{row['images_per_second']:.2f}" if ms else "-",
            f"{base / ms:.2f}x" if ms and base else "-",
            f"{row['peak_mib']:.0f}" if row["peak_mib"] else "-",
            row["note"] or "",
        )
    return table


def with_versions(rows: Sequence[dict]) -> str:
    """The rows as CSV, with the versions that they were measured with."""
    return as_csv(({**row, "torch": torch.__version__} for row in rows), [*COLUMNS, "torch"])


def crop_of(cfg: Config) -> tuple[int, ...] | None:
    """Rows and columns of a training crop."""
    preprocessor = cfg.model.get("data_preprocessor") or {}
    return tuple(preprocessor.get("size") or ()) or None


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
