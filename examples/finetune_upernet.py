"""Fine-tune UPerNet on a folder of images and label maps, and paint what it predicts.

    python examples/finetune_upernet.py FOLDER [--pretrained WEIGHTS] [--out out]

'swin-backbone new' looks at the folder and writes out/mine.py, which is then an ordinary config of
mmsegmentation's: change it there, or as here, in Python.
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from swin_backbone.cli import main as swin_backbone


def main(argv=None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--model", default="upernet-swin-tiny")
    parser.add_argument("--pretrained", help="weights of the backbone, of any library")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--steps", type=int, help="default: what the config says")
    args = parser.parse_args(argv)
    config = args.out / "mine.py"
    words = ["new", config, "--data", args.folder, "--model", args.model, "--force"]
    swin_backbone([*words, *(["--pretrained", args.pretrained] if args.pretrained else [])])

    cfg = Config.fromfile(config)
    cfg.work_dir = str(args.out / "run")
    cfg.train_cfg.max_iters = args.steps or cfg.train_cfg.max_iters
    cfg.train_cfg.val_interval = min(cfg.train_cfg.val_interval, cfg.train_cfg.max_iters)
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_iters
    Runner.from_cfg(cfg).train()

    checkpoint = args.out / "run" / f"iter_{cfg.train_cfg.max_iters}.pth"
    images = Path(cfg.data_root) / cfg.val_dataloader.dataset.data_prefix.img_path
    swin_backbone(["predict", config, checkpoint, images, "--out", args.out / "pictures"])
    return checkpoint


if __name__ == "__main__":
    main()
