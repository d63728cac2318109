"""Train a detector on images and annotations in COCO's format.

    python examples/detect_on_coco.py FOLDER [--model mask-rcnn-swin-tiny] [--out out]

'swin-backbone new' finds the JSON files and their images, and writes out/mine.py, which is then an
ordinary config of mmdetection's.
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from swin_backbone.cli import main as swin_backbone


def main(argv=None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument(
        "--model", default="mask-rcnn-swin-tiny", help="or retinanet-swin-tiny, ..."
    )
    parser.add_argument("--pretrained", help="weights of the backbone, of any library")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--steps", type=int, help="default: what the config says")
    args = parser.parse_args(argv)
    config = args.out / "mine.py"
    words = ["new", config, "--data", args.folder, "--task", "detection", "--model", args.model]
    words += ["--pretrained", args.pretrained] if args.pretrained else []
    swin_backbone([*words, "--force"])

    cfg = Config.fromfile(config)
    cfg.work_dir = str(args.out / "run")
    cfg.train_cfg.max_iters = args.steps or cfg.train_cfg.max_iters
    cfg.train_cfg.val_interval = min(cfg.train_cfg.val_interval, cfg.train_cfg.max_iters)
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_iters
    Runner.from_cfg(cfg).train()
    return args.out / "run" / f"iter_{cfg.train_cfg.max_iters}.pth"


if __name__ == "__main__":
    main()
