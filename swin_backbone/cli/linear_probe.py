"""Label pixels from frozen features: how much of a data set's classes a backbone already knows.

    swin-backbone linear-probe CONFIG CHECKPOINT --data FOLDER

FOLDER holds ``img_dir/{train,val}/NAME.jpg`` and ``ann_dir/{train,val}/NAME.png`` (255: no label).
The maps of all stages are brought to stage 0's size; logistic regression and k nearest neighbours
(scikit-learn) learn from pixels drawn at random from the training images, and are scored on pixels
drawn from the validation images: mean IoU and pixel accuracy. CHECKPOINT may be ``random``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..extras import from_extra
from ..images import read_image
from .argument_types import backbone, integer, positive
from .argument_types import device as device_type
from .commands import Parser, command

if TYPE_CHECKING:  # else imported where it is used: what an extra lacks is then one line
    from ..inference.features import Extractor

IGNORED = 255

console = Console(stderr=True)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description="Label pixels from frozen features.")
    parser.add_argument("config", type=backbone, help="a config, its name, or an architecture")
    parser.add_argument("checkpoint", help="path or address; 'random' for random weights")
    parser.add_argument("--data", type=Path, required=True, help="img_dir and ann_dir are in it")
    parser.add_argument("--stages", type=integer(0, 3), nargs="+", default=[0, 1, 2, 3])
    for split, default in (("train", 50), ("val", 300)):
        parser.add_argument(
            f"--{split}-pixels", type=positive, default=default, help=f"of each {split} image"
        )
    parser.add_argument("--neighbours", type=positive, default=10)
    parser.add_argument(
        "--device", type=device_type, help="default: cuda if there is one, else cpu"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="go on where a checkpoint lacks tensors"
    )
    arguments = parser.parse_args(argv)
    to_learn = classifiers(arguments.neighbours)
    from ..inference.features import Extractor, ExtractorSettings

    checkpoint = None if arguments.checkpoint == "random" else arguments.checkpoint
    settings = ExtractorSettings(
        arguments.config, checkpoint, tuple(sorted(set(arguments.stages))), pooled=False
    )
    torch.manual_seed(0)
    extractor = Extractor(
        settings, arguments.device, batch_size=1, allow_missing=arguments.allow_missing
    )
    train = draw_pixels(extractor, arguments.data, "train", arguments.train_pixels)
    val = draw_pixels(extractor, arguments.data, "val", arguments.val_pixels)
    table = Table("classifier", "mIoU", "aAcc")
    for name, classifier in to_learn.items():
        with console.status(name):
            mean_iou, accuracy = score(classifier.fit(*train).predict(val[0]), val[1])
        table.add_row(name, f"{100 * mean_iou:.1f} %", f"{100 * accuracy:.1f} %")
    Console().print(f"{len(train[1])} pixels to learn from, {len(val[1])} to be scored on", table)


def draw_pixels(
    extractor: Extractor, data: Path, split: str, per_image: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, C) and labels (N,) of pixels drawn at random, without those that have no label.

    Raises:
        FileNotFoundError: if there are no images.
    """
    folder = data / "img_dir" / split
    images = sorted(folder.iterdir()) if folder.is_dir() else []
    if not images:
        raise FileNotFoundError(f"{data / 'img_dir' / split} holds no images")
    rng = np.random.default_rng(0)
    features, labels = [], []
    for path in track(images, split, console=console):
        label_map = np.asarray(Image.open(data / "ann_dir" / split / f"{path.stem}.png"))
        image = read_image(path)
        if image.shape[:2] != label_map.shape:
            raise ValueError(f"{path} has {image.shape[:2]} pixels, its labels {label_map.shape}")
        maps = extractor([image])[0]
        rows, columns = np.nonzero(label_map != IGNORED)
        chosen = rng.choice(len(rows), min(per_image, len(rows)), replace=False)
        rows, columns = rows[chosen], columns[chosen]
        features.append(at_pixels(maps, rows, columns, label_map.shape))
        labels.append(label_map[rows, columns])
    return np.concatenate(features), np.concatenate(labels)


def at_pixels(
    maps: list[torch.Tensor], rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """All stages' features, interpolated at some pixels of an image of ``size``: (N, C)."""
    fine = maps[0].shape[1:]
    enlarged = (F.interpolate(one[None].float(), fine, mode="bilinear")[0] for one in maps)
    stacked = torch.cat(list(enlarged))
    rows, columns = (
        torch.from_numpy(index * cells // length)
        for index, cells, length in zip((rows, columns), fine, size, strict=True)
    )
    return stacked[:, rows, columns].t().numpy()


def classifiers(neighbours: int) -> dict:
    """What learns, by name; the first sees no features."""
    with from_extra("probe"):
        from sklearn.dummy import DummyClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer, StandardScaler

    return {
        "most frequent class": DummyClassifier(strategy="most_frequent"),
        "logistic regression": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=300)
        ),
        f"{neighbours} nearest neighbours": make_pipeline(
            StandardScaler(), Normalizer(), KNeighborsClassifier(neighbours, weights="distance")
        ),
    }


def score(predicted: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean IoU over the classes that occur, and pixel accuracy."""
    with from_extra("probe"):
        from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, predicted)
    hits = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hits
    return float((hits / union).mean()), float(hits.sum() / counts.sum())
