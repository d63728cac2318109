"""The configs of mmdet and mmseg that configs of this project stand for."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path

from mmengine.config import Config

from .paths import CONFIGS

#: Our configs whose originals have another name or none: the original's config, the config whose
#: backbone it has instead, and what else differs in its model.
_MADE = {
    "dino-4scale_swin-t-p4-w7_8xb2-12e_coco": (
        "dino-4scale_r50_8xb2-12e_coco",
        ("retinanet_swin-t-p4-w7_fpn_1x_coco", {"out_indices": (1, 2, 3)}),
        {"neck": {"in_channels": [192, 384, 768]}},
    ),
    "dino-4scale_swin-l-p4-w12_8xb2-12e_coco": (
        "dino-4scale_r50_8xb2-12e_coco",
        ("dino-5scale_swin-l_8xb2-12e_coco", {"out_indices": (1, 2, 3)}),
        {"neck": {"in_channels": [384, 768, 1536]}},
    ),
    "dino-5scale_swin-t-p4-w7_8xb2-12e_coco": (
        "dino-5scale_swin-l_8xb2-12e_coco",
        ("retinanet_swin-t-p4-w7_fpn_1x_coco", {"out_indices": (0, 1, 2, 3)}),
        {"neck": {"in_channels": [96, 192, 384, 768]}},
    ),
    "mask2former_swin-b-p4-w12-384_8xb2-lsj-50e_coco": (
        "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco",
        ("mask2former_swin-b-p4-w12-384_8xb2-lsj-50e_coco-panoptic", {}),
        {"panoptic_head": {"in_channels": [128, 256, 512, 1024]}},
    ),
    "mask2former_swin-b-p4-w12-384-in21k_8xb2-lsj-50e_coco": (
        "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco",
        ("mask2former_swin-b-p4-w12-384-in21k_8xb2-lsj-50e_coco-panoptic", {}),
        {"panoptic_head": {"in_channels": [128, 256, 512, 1024]}},
    ),
    "mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco": (
        "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco",
        ("mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic", {}),
        {"panoptic_head": {"in_channels": [192, 384, 768, 1536], "num_queries": 200}},
    ),
}


def read(path: Path) -> Config:
    # Formatting a config costs more than building a small model of it.
    return Config.fromfile(path, import_custom_modules=False, format_python_code=False)


def has_original(path: Path) -> bool:
    """Whether our config stands for one of mmdet's or mmseg's."""
    return path.stem in _MADE or _find(path) is not None


def original_of(path: Path) -> Config:
    """The config that ours stands for, with the library's own backbone."""
    if path.stem not in _MADE:
        return read(_find(path))
    name, (donor, changes), rest = _MADE[path.stem]
    cfg, backbone = (read(_find(path.with_name(f"{n}.py"))) for n in (name, donor))
    cfg.model.backbone = copy.deepcopy(backbone.model.backbone)
    cfg.merge_from_dict({"model": {"backbone": changes, **rest}})
    return cfg


def _find(path: Path) -> Path | None:
    """The file of the same name among the library's configs."""
    package = "mmdet" if path.is_relative_to(CONFIGS / "swin_det") else "mmseg"
    folder = Path(importlib.import_module(package).__path__[0], ".mim", "configs")
    found = [file for file in folder.rglob(path.name) if "_base_" not in file.parts]
    return found[0] if found else None
