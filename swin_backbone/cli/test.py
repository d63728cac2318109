"""Evaluate a checkpoint on a config's test split, with mmengine's conventions.

swin-backbone test CONFIG CHECKPOINT [--work-dir DIR] [--out DIR] [--show-dir DIR] [--tta]
    [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from .commands import Parser, command
from .launching import (
    add_common_arguments,
    build_runner,
    check_checkpoint,
    leave_processes,
    load_config,
    watch_weights,
)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, description="Evaluate a checkpoint.")
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint of the model")
    parser.add_argument("--out", help="folder for predicted label maps, or for detections as JSON")
    parser.add_argument("--show-dir", help="folder for painted predictions")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    parser.add_argument(
        "--allow-missing", action="store_true", help="go on where a checkpoint lacks tensors"
    )
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    cfg = load_config(arguments, loaders=("test_dataloader",))
    check_checkpoint(arguments.checkpoint)
    cfg.load_from, cfg.resume = arguments.checkpoint, False
    watch_weights(cfg, strict=not arguments.allow_missing)
    hooks = cfg.setdefault("default_hooks", {})
    hooks.setdefault("accelerate", {"type": "AccelerateHook"})
    if arguments.out is not None:
        keep_predictions(cfg, arguments.out)
    if arguments.show_dir is not None:
        paint_predictions(cfg, arguments.show_dir)
    if arguments.tta:
        for name in ("tta_model", "tta_pipeline"):
            if name not in cfg:
                raise ValueError(f"--tta needs a config with {name}")
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    build_runner(cfg).test()
    leave_processes()


def is_detection(cfg: Config) -> bool:
    return cfg.get("default_scope") == "mmdet"


def keep_predictions(cfg: Config, folder: str) -> None:
    """Let the metric write what was predicted below ``folder``."""
    if is_detection(cfg):
        cfg.test_evaluator.outfile_prefix = str(Path(folder) / "detections")
    else:
        cfg.test_evaluator.update(output_dir=folder, keep_results=True)


def paint_predictions(cfg: Config, folder: str) -> None:
    """Let the visualization hook of mmseg or mmdet write every prediction below ``folder``."""
    prefix = "Det" if is_detection(cfg) else "Seg"
    hook = {"type": f"{prefix}VisualizationHook", "draw": True, "interval": 1}
    if is_detection(cfg):
        hook["test_out_dir"] = str(Path(folder).resolve())
    cfg.default_hooks.visualization = hook
    if "visualizer" not in cfg:
        cfg.visualizer = {
            "type": f"{prefix}LocalVisualizer",
            "vis_backends": [{"type": "LocalVisBackend"}],
            "name": "visualizer",
        }
    cfg.visualizer.save_dir = folder
