"""The whole way in a few minutes on a CPU: make data, train, evaluate, look.

swin-backbone demo --out demo_output
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from rich.console import Console

from ..atomic_files import write_whole
from ..config_files import config_path
from . import make_demo_data
from .argument_types import positive
from .argument_types import seed as seed_type
from .commands import Parser, command
from .contact_sheet import paint_sheet

CONFIG = "demo/swin-demo_upernet_demo-112x112"
SHOWN = 6  # images on the contact sheet
console = Console()


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description="Train and evaluate on generated scenes.")
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument("--iters", type=positive, help="training steps; default: the config's")
    parser.add_argument("--seed", type=seed_type, default=0, help="of data and training")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")  # of libraries, about things that are as they should be
    torch.set_num_threads(1)  # for a model this small, threads wait longer than they work
    start = time.time()
    data = make_data(arguments)
    cfg = make_config(arguments, data)
    runner = Runner.from_cfg(cfg)
    runner.train()
    score = runner.val()["mIoU"]
    checkpoint = Path(cfg.work_dir) / f"iter_{cfg.train_cfg.max_iters}.pth"
    sheet = arguments.out / "predictions.png"
    write_whole(sheet, paint_sheet(cfg, checkpoint, SHOWN).save)
    console.print(f"mIoU            [bold]{score:.1f} %[/bold]")
    console.print(f"majority class  {majority_score(data, len(make_demo_data.CLASSES)):.1f} %")
    console.print(f"pictures        {sheet}")
    console.print(f"checkpoint      {checkpoint}")
    console.print(f"time            {time.time() - start:.0f} s")


def make_data(arguments: argparse.Namespace) -> Path:
    """The folder of generated scenes, made if it is not there."""
    data = arguments.out / "data"
    make_demo_data.main([str(data), "--seed", str(arguments.seed)])
    return data


def make_config(arguments: argparse.Namespace, data: Path) -> Config:
    """The demo's config, for this folder and number of steps, with a bar instead of log lines."""
    cfg = Config.fromfile(config_path(CONFIG))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        cfg[loader].dataset.data_root = str(data)
    cfg.work_dir = str(arguments.out / "run")
    cfg.randomness = {"seed": arguments.seed}
    if arguments.iters is not None:
        warm_up = min(cfg.param_scheduler[0].end, arguments.iters // 2)
        cfg.train_cfg.max_iters = arguments.iters
        cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = warm_up
        cfg.param_scheduler[1].end = arguments.iters
    cfg.train_cfg.val_interval = cfg.train_cfg.max_iters + 1  # evaluated once, when it is over
    cfg.log_level = "WARNING"
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), {"type": "ProgressHook"}]
    # Writing the config out prettily takes seconds at every checkpoint.
    return Config(cfg.to_dict(), format_python_code=False)


def truth_of(image: Path) -> np.ndarray:
    """Label map (H, W) of an image of the data set."""
    label = image.parents[2] / "ann_dir" / image.parent.name / f"{image.stem}.png"
    return np.asarray(Image.open(label))  # palette images hold the labels themselves


def majority_score(data: Path, num_classes: int) -> float:
    """mIoU in percent, on the val split, of predicting its most frequent class everywhere."""
    counts = np.zeros(num_classes)
    for image in (data / "img_dir" / "val").iterdir():
        counts += np.bincount(truth_of(image).ravel(), minlength=num_classes)[:num_classes]
    return 100 * counts.max() / counts.sum() / num_classes
