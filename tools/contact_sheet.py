"""One picture of images from the val split, their truth, and what a checkpoint predicts.

python tools/contact_sheet.py CONFIG CHECKPOINT --out sheet.png [--images 6] [--cell 220]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import swin_backbone  # noqa: F401  (it lets mmseg import without compiled ops)

# isort: split
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmseg.apis import init_model
from mmseg.registry import DATASETS
from PIL import Image

from swin_backbone.images import read_image
from swin_backbone.visualization import contact_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--images", type=int, default=6, help="rows, evenly spread over the split")
    parser.add_argument("--cell", type=int, default=220, help="side of each picture, pixels")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    arguments = parser.parse_args()
    cfg = Config.fromfile(arguments.config)
    cfg.merge_from_dict(arguments.cfg_options)
    sheet = paint_sheet(cfg, arguments.checkpoint, arguments.images, arguments.cell)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out)


def paint_sheet(cfg: Config, checkpoint: Path, count: int, cell: int = 220) -> Image.Image:
    """Image, truth and prediction of ``count`` images, evenly spread over the val split.

    Raises:
        FileNotFoundError: if the checkpoint is not a file.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint {str(checkpoint)!r} is not a file")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = init_model(cfg, str(checkpoint), device=device)
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


if __name__ == "__main__":
    main()
