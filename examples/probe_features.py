"""How well do frozen features tell classes apart? One folder of images for each class.

    python examples/probe_features.py FOLDER [--arch tiny] [--checkpoint WEIGHTS]

FOLDER/CLASS/*.jpg. Needs the extra 'probe'. Every third image is tested on.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

import swin_backbone
from swin_backbone.images import read_image
from swin_backbone.inference.preprocessing import IMAGENET


@torch.no_grad()
def features_of(model: torch.nn.Module, path: Path, side: int) -> np.ndarray:
    """The last stage's mean over an image that is resized to ``side`` by ``side``."""
    pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return model(IMAGENET.normalise(pixels))[-1].mean(dim=(2, 3))[0].numpy()


def main(argv=None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--checkpoint", help="weights of the backbone, of any library")
    parser.add_argument("--side", type=int, default=224)
    args = parser.parse_args(argv)
    model = swin_backbone.create(args.arch, args.checkpoint).eval()
    paths = sorted(path for path in args.folder.glob("*/*") if path.is_file())
    features = np.stack([features_of(model, path, args.side) for path in paths])
    classes = np.array([path.parent.name for path in paths])
    tested = np.arange(len(paths)) % 3 == 2
    probe = LogisticRegression(max_iter=1000).fit(features[~tested], classes[~tested])
    accuracy = probe.score(features[tested], classes[tested])
    print(f"accuracy on {tested.sum()} of {len(paths)} images: {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
