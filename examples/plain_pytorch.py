"""A backbone and a head of your own in a plain training loop: no framework, torch alone.

    python examples/plain_pytorch.py [--arch tiny] [--checkpoint WEIGHTS] [--steps 20]

The head adds the maps of all stages at the finest one's size. The data are drawn: find the squares.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import swin_backbone


class Segmentor(nn.Module):
    """(B, 3, H, W) images to (B, classes, H, W) scores."""

    def __init__(self, backbone: nn.Module, num_classes: int, width: int = 64):
        super().__init__()
        self.backbone = backbone
        self.project = nn.ModuleList(
            nn.Conv2d(stage.channels, width, 1) for stage in backbone.features_info
        )
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = [project(x) for project, x in zip(self.project, self.backbone(images), strict=True)]
        size = maps[0].shape[-2:]
        features = sum(F.interpolate(x, size, mode="bilinear") for x in maps)
        return F.interpolate(self.classify(features.relu()), images.shape[-2:], mode="bilinear")


def draw(batch: int, side: int) -> tuple[Tensor, Tensor]:
    """Noise with a brighter square in each image, and the pixels of the square."""
    images, labels = torch.randn(batch, 3, side, side), torch.zeros(batch, side, side).long()
    for image, label in zip(images, labels, strict=True):
        top, left = torch.randint(side // 2, (2,)).tolist()
        place = (slice(top, top + side // 3), slice(left, left + side // 3))
        image[(slice(None), *place)] += 2
        label[place] = 1
    return images, labels


def main(argv=None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="tiny", help="see swin_backbone.list_architectures()")
    parser.add_argument("--checkpoint", help="weights of the backbone, of any library")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=96, help="of the images, in pixels")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = swin_backbone.create(args.arch, args.checkpoint, drop_path_rate=0.1)
    model = Segmentor(backbone, num_classes=2).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.05)
    losses = []
    for step in range(args.steps):
        images, labels = (x.to(device) for x in draw(4, args.side))
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step + 1}: loss {loss.item():.3f}")
    return losses


if __name__ == "__main__":
    main()
