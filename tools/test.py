"""Evaluate a checkpoint on a config's test split, with mmengine's conventions.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out DIR] [--show-dir DIR] [--tta]
    [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

from __future__ import annotations

import argparse

from launching import add_common_arguments, build_runner, leave_processes, load_config
from mmengine.config import Config, ConfigDict


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint.")
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint of the model")
    parser.add_argument("--out", help="folder for predicted label maps")
    parser.add_argument("--show-dir", help="folder for painted predictions")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    cfg = load_config(arguments, loaders=("test_dataloader",))
    cfg.load_from = arguments.checkpoint
    if arguments.out is not None:
        cfg.test_evaluator.update(output_dir=arguments.out, keep_results=True)
    if arguments.show_dir is not None:
        paint_predictions(cfg, arguments.show_dir)
    if arguments.tta:
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    build_runner(cfg).test()
    leave_processes()


def paint_predictions(cfg: Config, folder: str) -> None:
    """Let mmseg's visualization hook write every prediction below ``folder``."""
    cfg.default_hooks.visualization = {"type": "SegVisualizationHook", "draw": True, "interval": 1}
    if "visualizer" not in cfg:
        cfg.visualizer = {
            "type": "SegLocalVisualizer",
            "vis_backends": [{"type": "LocalVisBackend"}],
            "name": "visualizer",
        }
    cfg.visualizer.save_dir = folder


if __name__ == "__main__":
    main()
