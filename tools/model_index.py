"""The index of the project's configs for OpenMMLab's ``mim``: ``model-index.yml``.

Sizes are what ``swin-backbone model-stats`` counts; ``tools/model_zoo.py`` writes the file. Scores
are those of ``configs/*/published.yaml``: each names who published it, for the project did not
measure them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from swin_backbone.openmmlab.model_statistics import Stats

HEAD = """\
# Written by 'python tools/model_zoo.py': do not edit. Results were published by others
# for the same settings, as each says; this project's own are in docs/results.md.
"""
PAPERS = {
    "Swin Transformer": {
        "Title": "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "URL": "https://arxiv.org/abs/2103.14030",
    },
    "Swin Transformer V2": {
        "Title": "Swin Transformer V2: Scaling Up Capacity and Resolution",
        "URL": "https://arxiv.org/abs/2111.09883",
    },
}
#: Data sets by the word for them in a config's name.
DATASETS = {
    "ade20k": "ADE20K",
    "camvid": "CamVid",
    "cityscapes": "Cityscapes",
    "coco": "COCO",
    "demo": "generated scenes",
    "nuclei": "nuclei",
}
#: Metrics of ``published.yaml`` for each task.
TASKS = {
    "Semantic Segmentation": {"mIoU": ("mIoU", "mIoU(ms+flip)")},
    "Object Detection": {"box": ("box AP",)},
    "Instance Segmentation": {"mask": ("mask AP",)},
    "Panoptic Segmentation": {"PQ": ("PQ",)},
}


def as_index(stats: list[Stats], published: dict, sources: dict, root: Path) -> str:
    """The text of ``model-index.yml``.

    Args:
        stats: of every config.
        published: of ``published.yaml``: scores by config and source.
        sources: of ``published.yaml``: each source's address.
        root: the folder that the paths of configs begin at.

    Raises:
        ValueError: if a config's name ends with no known data set.
    """
    models = [_model(row, published.get(row.path.stem, {}), sources, root) for row in stats]
    collections = [{"Name": name, "Paper": paper} for name, paper in PAPERS.items()]
    index = {"Collections": collections, "Models": models}
    return HEAD + yaml.safe_dump(index, sort_keys=False, width=100)


def _model(row: Stats, published: dict, sources: dict, root: Path) -> dict:
    dataset = _dataset(row.path.stem)
    metadata = {"Training Data": dataset, "Parameters": row.parameters}
    for size, flops in ((row.crop, row.crop_flops), (row.test, row.test_flops)):
        if size and flops:
            metadata[f"GFLOPs ({size[0]}x{size[1]})"] = round(flops / 1e9, 1)
    if published:  # seen by 'mim search', which shows the scores of one source only
        metadata["Results"] = f"published by {' and '.join(published)}, not measured here"
    model = {
        "Name": row.path.stem,
        "In Collection": f"Swin Transformer{' V2' if 'swinv2' in row.path.stem else ''}",
        "Config": row.path.resolve().relative_to(root).as_posix(),
        "Metadata": metadata,
    }
    results = [
        {
            "Task": task,
            "Dataset": dataset,
            "Metrics": metrics,
            "Published By": f"{source}, {sources[source]['url']}",
        }
        for source, numbers in published.items()
        for task in TASKS
        if (metrics := _metrics(task, numbers))
    ]
    return {**model, "Results": results} if results else model


def _dataset(stem: str) -> str:
    word = stem.rpartition("_")[2].partition("-")[0]
    if word not in DATASETS:
        raise ValueError(
            f"config {stem!r} must end with one of {', '.join(DATASETS)}, got {word!r}"
        )
    return DATASETS[word]


def _metrics(task: str, numbers: dict) -> dict:
    """One source's numbers for a task, by the names that ``mim`` shows."""
    found = {}
    for key, names in TASKS[task].items():
        values = numbers.get(key, [])
        found |= zip(names, values if isinstance(values, list) else [values], strict=False)
    return found
