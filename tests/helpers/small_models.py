"""Config files and checkpoints of a small segmentor and a small detector, for the commands."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from .small_detector import small_detector

ROOT = Path(__file__).parents[2]
DEMO_CONFIG = next((ROOT / "configs" / "demo").glob("swin-demo_upernet_demo-*.py"))
DETECTOR = next((ROOT / "configs" / "swin_det").glob("mask-rcnn_*_nuclei.py"))
BACKBONE = {"embed_dims": 8, "depths": (2, 2), "num_heads": (1, 2), "strides": (4, 2)}


def write_segmentor(folder: Path) -> tuple[Path, Path]:
    """A config and a checkpoint of a small UPerNet, whose ``meta`` is empty."""
    config = folder / "segmentor.py"
    config.write_text(
        f"_base_ = ['{DEMO_CONFIG}']\n"
        f"model = dict(backbone=dict(_delete_=True, type='SwinBackbone', out_indices=(0, 1),\n"
        f"    **{BACKBONE!r}),\n"
        "    decode_head=dict(in_channels=[8, 16], in_index=[0, 1], channels=16))\n"
    )
    return config, _write_checkpoint(config, folder / "segmentor.pth", "mmseg", {})


def write_detector(folder: Path) -> tuple[Path, Path]:
    """A config and a checkpoint of a small Mask R-CNN of one class."""
    config = folder / "detector.py"
    small_detector(DETECTOR).dump(config)
    meta = {"dataset_meta": {"classes": ("nucleus",), "palette": [(0, 255, 0)]}}
    return config, _write_checkpoint(config, folder / "detector.pth", "mmdet", meta)


def _write_checkpoint(config: Path, path: Path, scope: str, meta: dict) -> Path:
    from importlib import import_module

    init_default_scope(scope)
    torch.manual_seed(0)
    model = import_module(f"{scope}.registry").MODELS.build(Config.fromfile(config).model)
    model.init_weights()
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
    return path
