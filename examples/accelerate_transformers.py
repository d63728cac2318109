"""Fine-tune a classifier of transformers, accelerated: one line more than without.

python examples/accelerate_transformers.py [--model microsoft/swin-tiny-patch4-window7-224]

Without --model, a small one with random weights; images are of two kinds that noise tells apart.
"""

import argparse

import torch
from transformers import SwinConfig, SwinForImageClassification

import swin_backbone


def load(name: str | None) -> SwinForImageClassification:
    if name is not None:
        return SwinForImageClassification.from_pretrained(
            name, num_labels=2, ignore_mismatched_sizes=True
        )
    config = SwinConfig(image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], num_labels=2)
    return SwinForImageClassification(config)


def draw(batch: int, side: int):
    """Images whose noise is coarse or fine, and which of the two."""
    labels = torch.randint(2, (batch,))
    fine = torch.randn(batch, 3, side, side)
    coarse = torch.randn(batch, 3, side // 8, side // 8)
    coarse = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return torch.where(labels.view(-1, 1, 1, 1) == 1, fine, coarse), labels


def main(argv=None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a folder, or a name on the hub")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", help="folder for the trained model")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load(args.model).train().to(device)
    print(swin_backbone.accelerate(model))
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for step in range(args.steps):
        images, labels = draw(8, model.config.image_size)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(images.to(device), labels=labels.to(device)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step:3d}  loss {losses[-1]:.3f}")
    if args.out:
        model.save_pretrained(args.out)  # as any of transformers' models
    return losses


if __name__ == "__main__":
    main()
