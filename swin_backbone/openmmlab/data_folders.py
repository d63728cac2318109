"""Clear errors for data that are not where a config says, before anything is built."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping

from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file
from mmengine.registry import DATASETS, DefaultScope

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def check_data_folders(cfg: Mapping, loaders: tuple[str, ...] = LOADERS) -> None:
    """Raise an error unless every local folder and annotation file of a config is there.

    mmseg names a missing image folder by its relative path alone, fails on an empty one with
    ``need at least one array to concatenate``, and finds a missing annotation folder only when
    a worker reads its first label.

    Args:
        cfg: an mmengine config with data loaders.
        loaders: which of its data loaders to look at.

    Raises:
        FileNotFoundError: naming the loader, the folder, and the settings it comes from.
    """
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        for loader in loaders:
            for dataset in _datasets((cfg.get(loader) or {}).get("dataset")):
                _check_dataset(loader, dataset)


def _datasets(cfg) -> Iterator[BaseDataset]:
    """Every dataset with folders in a config, unloaded; wrappers are looked into."""
    if isinstance(cfg, (list, tuple)):
        for part in cfg:
            yield from _datasets(part)
    elif isinstance(cfg, Mapping):
        inner = cfg.get("dataset", cfg.get("datasets"))
        if inner is not None:
            yield from _datasets(inner)
        elif _is_base_dataset(cfg["type"]):
            yield DATASETS.build({**cfg, "lazy_init": True, "pipeline": []})


def _is_base_dataset(kind) -> bool:
    """Whether a dataset is one of OpenMMLab's, which know their folders; others do as they like."""
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return inspect.isclass(kind) and issubclass(kind, BaseDataset)


def _check_dataset(loader: str, dataset: BaseDataset) -> None:
    suffixes = {
        "img_path": getattr(dataset, "img_suffix", ""),
        "seg_map_path": getattr(dataset, "seg_map_suffix", ""),
    }
    settings = f"data_root={dataset.data_root!r}"
    if dataset.ann_file and _is_local(dataset.ann_file) and not os.path.exists(dataset.ann_file):
        raise FileNotFoundError(
            f"{loader}: annotation file {os.path.abspath(dataset.ann_file)!r} does not exist "
            f"({settings})"
        )
    for field, folder in dataset.data_prefix.items():
        if folder and _is_local(folder):
            _check_folder(f"{loader}: {field}", folder, suffixes.get(field, ""), settings)


def _is_local(path: str) -> bool:
    return "://" not in path


def _check_folder(what: str, folder: str, suffix: str, settings: str) -> None:
    path = os.path.abspath(folder)
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{what} folder {path!r} does not exist ({settings})")
    files = list_dir_or_file(path, list_dir=False, suffix=suffix or None, recursive=True)
    if next(iter(files), None) is None:
        raise FileNotFoundError(f"{what} folder {path!r} holds no '*{suffix}' file ({settings})")
