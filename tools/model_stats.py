"""Count the parameters and FLOPs of configs, and keep what lists them up to date.

    python tools/model_stats.py [CONFIG ...]      (default: every config of the project)
    python tools/model_stats.py --write           (also renew docs/model_zoo.md and model-index.yml)

Parameters are all of the model's, with the auxiliary head. FLOPs are those of predicting one image:
one for each multiply-add of a convolution, a linear layer or a product within attention, and none
for what is cheap beside these (norms, activations, softmax, pooling, resizing). They are counted on
PyTorch's meta device, so nothing is computed or downloaded. A detector of two stages predicts from
1000 proposals and masks 100 of them, as the published numbers are counted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from commands import Parser, command
from mmengine.config import Config
from mmengine.registry import init_default_scope
from model_index import as_index
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import swin_backbone  # noqa: F401  (registers SwinBackbone)
from swin_backbone.atomic_files import write_text
from swin_backbone.openmmlab.config_files import read_config
from swin_backbone.openmmlab.whole_models import kind_of

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "model_zoo.md"
INDEX = ROOT / "model-index.yml"
PUBLISHED = [ROOT / "configs" / name / "published.yaml" for name in ("swin", "swin_det")]
BEGIN, END = "<!-- model_stats: begin -->", "<!-- model_stats: end -->"
HEADER = """\
| Config | Parameters | GFLOPs, crop | GFLOPs, test image | Published by others |
| --- | ---: | ---: | ---: | --- |
"""
DETECTION_HEADER = """

| Detector | Parameters | GFLOPs | Published by others |
| --- | ---: | ---: | --- |
"""
#: Rows and columns at which the FLOPs of detectors are published.
DETECTION_SIZE = (800, 1280)
PROPOSALS, MASKS = 1000, 100


class Stats(NamedTuple):
    """What was counted for one config.

    Attributes:
        path: the config.
        parameters: number of parameters.
        crop: rows and columns of a training crop; ``None`` for a detector.
        crop_flops: multiply-adds for one image of that size.
        test: rows and columns to which test images are resized at most, ``None`` if they are not;
            of a detector, the size at which FLOPs are published.
        test_flops: multiply-adds for one image of that size; ``None`` where they are not counted.
    """

    path: Path
    parameters: int
    crop: tuple[int, int] | None
    crop_flops: int | None
    test: tuple[int, int] | None
    test_flops: int | None


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    parser.add_argument("configs", type=Path, nargs="*", help="default: all")
    files = f"{DOCUMENT.relative_to(ROOT)} and {INDEX.name}"
    parser.add_argument("--write", action="store_true", help=f"renew {files}")
    arguments = parser.parse_args(argv)
    if arguments.write and arguments.configs:
        parser.error("--write lists every config, so it takes none")
    console = Console()
    configs = arguments.configs or find_configs()
    stats = [measure(path) for path in track(configs, "counting", console=console, transient=True)]
    stats = in_order(stats)
    console.print(as_rich(stats))
    if arguments.write:
        for path, text in renewed(stats).items():
            write_text(path, text)
            console.print(f"wrote {path}")


def renewed(stats: list[Stats]) -> dict[Path, str]:
    """What lists the configs, by its path: the text that it should have."""
    return {
        DOCUMENT: replace_table(DOCUMENT.read_text(), as_markdown(stats)),
        INDEX: as_index(stats, *read_published(), ROOT),
    }


def find_configs() -> list[Path]:
    """Every config of the project, bases left out."""
    found = (ROOT / "configs").rglob("*.py")
    return sorted(path for path in found if "_base_" not in path.parts)


def measure(path: Path) -> Stats:
    """Count one config.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no model of mmseg or mmdet.
    """
    cfg = read_config(path)
    kind = kind_of(cfg, f"config {str(path)!r}")
    model = build_on_meta(cfg)
    if kind == "detector":
        return Stats(
            path=Path(path),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            crop=None,
            crop_flops=None,
            test=DETECTION_SIZE,
            test_flops=count_detector_flops(model, DETECTION_SIZE),
        )
    crop = tuple(cfg.model.data_preprocessor.size)
    test = test_size(cfg)
    return Stats(
        path=Path(path),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        crop=crop,
        crop_flops=count_flops(model, crop),
        test=test,
        test_flops=count_flops(model, test) if test else None,
    )


def build_on_meta(cfg: Config) -> torch.nn.Module:
    """The config's model with shapes but without values, ready to predict."""
    scope = cfg.get("default_scope", "mmseg")
    models = importlib.import_module(f"{scope}.registry").MODELS
    init_default_scope(scope)
    with torch.device("meta"):
        return models.build(cfg.model).eval()


def test_size(cfg: Config) -> tuple[int, int] | None:
    """Rows and columns of the largest image that the test pipeline's resizing makes."""
    for transform in cfg.get("test_pipeline", []):
        if transform.type == "Resize":
            return min(transform.scale), max(transform.scale)
    return None


def count_flops(model: torch.nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds for one RGB image of ``size`` (rows, columns)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *size, device="meta"), mode="tensor")
    return counter.get_total_flops() // 2  # PyTorch counts multiplication and addition apart


def count_detector_flops(model: torch.nn.Module, size: tuple[int, int]) -> int | None:
    """Multiply-adds for one RGB image, or ``None`` if the model cannot be run without values."""
    if hasattr(model, "encoder"):  # DETR and its kin compute masks and positions on the host
        return None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = model.extract_feat(torch.empty(1, 3, *size, device="meta"))
        if hasattr(model, "roi_head"):
            model.rpn_head(maps)
            _run_heads(model.roi_head.bbox_head, PROPOSALS, model.roi_head.bbox_roi_extractor)
            _run_heads(model.roi_head.mask_head, MASKS, model.roi_head.mask_roi_extractor)
        else:
            model.bbox_head(maps)
    return counter.get_total_flops() // 2


def _run_heads(heads: torch.nn.Module, count: int, extractors: torch.nn.Module) -> None:
    """Run the heads of all stages on ``count`` regions."""
    stages = isinstance(heads, torch.nn.ModuleList)
    extractor = extractors[0] if isinstance(extractors, torch.nn.ModuleList) else extractors
    side = extractor.roi_layers[0].output_size
    for head in heads if stages else [heads]:
        head(torch.empty(count, extractor.out_channels, *side, device="meta"))


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
    if flops is None:
        return ""
    return f"{flops / 1e9:.1f} G ({size[0]}x{size[1]})"


def as_markdown(stats: list[Stats]) -> str:
    """The tables of docs/model_zoo.md, with what others published beside it."""
    configs, sources = read_published()
    segmentors = [as_line(row, as_cells(row), configs) for row in stats if row.crop]
    detectors = [as_line(row, as_cells(row)[::2], configs) for row in stats if row.crop is None]
    links = [f"[{name}]: {source['url']}" for name, source in sources.items()]
    tables = HEADER + "\n".join(segmentors) + DETECTION_HEADER + "\n".join(detectors)
    return "\n".join([tables, "", *links])


def read_published() -> tuple[dict, dict]:
    """What others published: scores by config and source, and the sources."""
    configs, sources = {}, {}
    for file in PUBLISHED:
        published = yaml.safe_load(file.read_text())
        configs |= published["configs"]
        sources |= published["sources"]
    return configs, sources


def as_line(row: Stats, counts: list[str], published: dict) -> str:
    """One row of a table: link, counts, what others published."""
    link = f"[{row.path.stem}]({Path('..') / row.path.resolve().relative_to(ROOT)})"
    others = published.get(row.path.stem, {})
    scores = "; ".join(as_published(*item) for item in others.items())
    return f"| {' | '.join([link, *(cell or '-' for cell in (*counts, scores))])} |"


def as_published(source: str, numbers: dict) -> str:
    """One source's numbers, after a link to it."""
    sizes = "{parameters} M, {gflops} G, ".format(**numbers) if "gflops" in numbers else ""
    if "box" in numbers:
        mask = f", mask AP {numbers['mask']:.1f}" if "mask" in numbers else ""
        return f"[{source}]: {sizes}box AP {numbers['box']:.1f}{mask}"
    single, several = numbers["mIoU"]
    return f"[{source}]: {sizes}mIoU {single:.2f} / {several:.2f}"


def replace_table(document: str, table: str) -> str:
    """``document`` with what stands between its markers replaced.

    Raises:
        ValueError: if a marker is not there once.
    """
    for marker in (BEGIN, END):
        if document.count(marker) != 1:
            raise ValueError(
                f"the document must hold {marker!r} once, not {document.count(marker)}"
            )
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    sys.exit(main())
