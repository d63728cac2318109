"""A detector of torchvision with our backbone below its feature pyramid.

python examples/torchvision_detector.py [--arch tiny] [--checkpoint WEIGHTS] [--steps 20]

Random weights, and images of one bright rectangle each, so that it runs anywhere.
"""

import argparse
from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

import swin_backbone


class SwinWithFPN(nn.Module):
    """What torchvision's detectors take as a backbone, as ``BackboneWithFPN`` is: named maps of
    ``out_channels``."""

    def __init__(self, backbone: swin_backbone.SwinBackbone, out_channels: int = 64):
        super().__init__()
        self.body, self.out_channels = backbone, out_channels
        channels = [info.channels for info in backbone.features_info]
        self.fpn = FeaturePyramidNetwork(channels, out_channels, LastLevelMaxPool())

    def forward(self, images):
        maps = enumerate(self.body(images))
        return self.fpn(OrderedDict((str(level), features) for level, features in maps))


def build(arch: str, checkpoint: str | None = None, classes: int = 2, side: int = 96) -> FasterRCNN:
    backbone = SwinWithFPN(swin_backbone.create(arch, checkpoint).train())
    anchors = AnchorGenerator(tuple((8 * 2**level,) for level in range(5)), ((0.5, 1.0, 2.0),) * 5)
    return FasterRCNN(
        backbone, classes, rpn_anchor_generator=anchors, min_size=side, max_size=2 * side,
        # Little, so that a CPU is enough: leave these out for torchvision's own numbers.
        rpn_pre_nms_top_n_train=200, rpn_post_nms_top_n_train=100, box_batch_size_per_image=32,
    )  # fmt: skip


def draw(batch: int, side: int):
    """Images (3, side, side), and the box of the rectangle in each."""
    images, targets = [], []
    for _ in range(batch):
        image = 0.2 * torch.rand(3, side, side)
        left, top = torch.randint(side // 2, (2,)).tolist()
        width, height = torch.randint(side // 6, side // 2, (2,)).tolist()
        image[:, top : top + height, left : left + width] += 0.7
        box = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
        images.append(image)
        targets.append({"boxes": box, "labels": torch.ones(1, dtype=torch.int64)})
    return images, targets


def main(argv=None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--checkpoint")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=96)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    model = build(args.arch, args.checkpoint, side=args.side).train()
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-4), []
    for step in range(args.steps):
        loss = sum(model(*draw(2, args.side)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step:3d}  loss {losses[-1]:.3f}")
    model.eval()
    with torch.no_grad():
        (found,) = model(draw(1, args.side)[0])
    print(f"{len(found['boxes'])} boxes")
    return losses


if __name__ == "__main__":
    main()
