"""Renew what lists the project's configs: docs/model_zoo.md and model-index.yml.

    python tools/model_zoo.py

Parameters and FLOPs are counted again; scores are those of ``configs/*/published.yaml``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from model_index import as_index

from swin_backbone.atomic_files import write_text
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.model_stats import as_cells, in_order
from swin_backbone.openmmlab.model_statistics import Stats, measure

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


@command
def main(argv: Sequence[str] | None = None) -> None:
    Parser(__file__, description=__doc__.split("\n")[0]).parse_args(argv)
    for path, text in renewed([measure(path) for path in find_configs()]).items():
        write_text(path, text)
        print(f"wrote {path}")


def renewed(stats: list[Stats]) -> dict[Path, str]:
    """What lists the configs, by its path: the text that it should have."""
    stats = in_order(stats)
    return {
        DOCUMENT: replace_table(DOCUMENT.read_text(), as_markdown(stats)),
        INDEX: as_index(stats, *read_published(), ROOT),
    }


def find_configs() -> list[Path]:
    """Every config of the project, bases left out."""
    found = (ROOT / "configs").rglob("*.py")
    return sorted(path for path in found if "_base_" not in path.parts)


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
    if "mIoU" in numbers:  # with one scale, and where it was published with several
        return f"[{source}]: {sizes}mIoU {' / '.join(f'{value:.2f}' for value in numbers['mIoU'])}"
    names = {"PQ": "PQ", "box": "box AP", "mask": "mask AP"}
    scores = [f"{word} {numbers[key]:.1f}" for key, word in names.items() if key in numbers]
    return f"[{source}]: {sizes}{', '.join(scores)}"


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
