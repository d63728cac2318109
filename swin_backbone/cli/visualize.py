"""Show what a backbone sees in an image, on one sheet.

    swin-backbone visualize CONFIG CHECKPOINT IMAGE --out sheet.png
    swin-backbone visualize tiny CHECKPOINT IMAGE --out sheet.png --pixel 120 200

Principal components and norms of each stage, the effective receptive field of the central token,
where the token under a pixel looks to in a regular and in a shifted window, and the relative
position bias of each head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..atomic_files import write_whole
from ..images import read_image
from ..inference.preprocessing import preprocessing_of
from ..inference.visualization.sheet import feature_sheet
from ..model.create import load_backbone
from .argument_types import backbone, not_negative, picture, positive
from .argument_types import device as device_type
from .commands import Parser, command


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description="Show what a backbone sees in an image.")
    parser.add_argument("config", type=backbone, help="a config, its name, or an architecture")
    parser.add_argument("checkpoint", help="path or address; 'random' for random weights")
    parser.add_argument("image", type=Path)
    parser.add_argument("--out", type=picture, required=True, help="the picture, PNG")
    parser.add_argument(
        "--pixel", type=not_negative, nargs=2, metavar=("Y", "X"), help="default: centre"
    )
    parser.add_argument(
        "--longest", type=positive, default=640, help="longer side, in pixels, at most"
    )
    parser.add_argument("--cell", type=positive, default=260, help="side of a panel, in pixels")
    parser.add_argument(
        "--device", type=device_type, help="default: cuda if there is one, else cpu"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="go on where a checkpoint lacks tensors"
    )
    arguments = parser.parse_args(argv)
    checkpoint = None if arguments.checkpoint == "random" else arguments.checkpoint
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    image = read_thumbnail(arguments.image, arguments.longest)
    model = load_backbone(arguments.config, checkpoint, allow_missing=arguments.allow_missing).to(
        device
    )
    sheet = feature_sheet(
        model,
        preprocessing_of(arguments.config),
        image,
        tuple(arguments.pixel) if arguments.pixel else None,
        arguments.cell,
    )
    write_whole(arguments.out, sheet.save)
    print(f"wrote {arguments.out}, {sheet.width}x{sheet.height}")


def read_thumbnail(path: Path, longest: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image, its longer side reduced to ``longest`` pixels."""
    image = Image.fromarray(read_image(path))
    image.thumbnail((longest, longest))
    return np.asarray(image)
