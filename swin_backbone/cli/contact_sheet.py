"""One picture of images from the val split, their truth, and what a checkpoint predicts.

swin-backbone contact-sheet CONFIG CHECKPOINT --out sheet.png [--images 6] [--cell 220]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS
from PIL import Image

from ..atomic_files import write_whole
from ..images import read_image
from ..inference.visualization import contact_sheet
from ..openmmlab.mmengine_configs import as_config_error, read_config
from ..openmmlab.whole_models import load_whole_model
from .argument_types import config as config_type
from .argument_types import picture, positive
from .commands import Parser, command
from .config_options import add_config_options


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    parser.add_argument("config", type=config_type, help="a config, or its name")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=picture, required=True, help="PNG to write")
    parser.add_argument(
        "--images", type=positive, default=6, help="rows, evenly spread over the split"
    )
    parser.add_argument("--cell", type=positive, default=220, help="side of each picture, pixels")
    add_config_options(parser)
    arguments = parser.parse_args(argv)
    cfg = read_config(arguments.config, arguments.cfg_options)
    sheet = paint_sheet(cfg, arguments.checkpoint, arguments.images, arguments.cell)
    write_whole(arguments.out, sheet.save)


def paint_sheet(cfg: Config, checkpoint: Path, count: int, cell: int = 220) -> Image.Image:
    """Image, truth and prediction of ``count`` images, evenly spread over the val split.

    Raises:
        FileNotFoundError: if the checkpoint is not a file.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint {str(checkpoint)!r} is not a file")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_whole_model(cfg, checkpoint, device, kind="segmentor")
    with as_config_error("the config's val_dataloader cannot be built"):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
    spread = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    rows = []
    for index in spread.tolist():
        sample = dataset[index]
        truth = sample["data_samples"].gt_sem_seg.data[0].numpy()
        with torch.no_grad():
            (predicted,) = model.test_step(pseudo_collate([sample]))
        image = read_image(sample["data_samples"].img_path)
        labels = predicted.pred_sem_seg.data[0].cpu().numpy()
        rows.append((image, truth, labels))
    return contact_sheet(rows, dataset.metainfo["classes"], dataset.metainfo["palette"], cell)
