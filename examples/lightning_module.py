"""The same segmentor in Lightning (pip install lightning), which brings the loop.

python examples/lightning_module.py [--arch tiny] [--checkpoint WEIGHTS] [--steps 20]
"""

import argparse

import lightning
import torch
import torch.nn.functional as F
from plain_pytorch import Segmentor, draw
from torch.utils.data import DataLoader, IterableDataset

import swin_backbone


class Squares(IterableDataset):
    """Images with their labels, without end."""

    def __init__(self, side: int):
        self.side = side

    def __iter__(self):
        while True:
            images, labels = draw(1, self.side)
            yield images[0], labels[0]


class LitSegmentor(lightning.LightningModule):
    """What Lightning needs to know: the step, and the optimizer."""

    def __init__(self, arch: str, checkpoint: str | None = None):
        super().__init__()
        self.model = Segmentor(swin_backbone.create(arch, checkpoint), num_classes=2).train()

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = F.cross_entropy(self.model(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 3e-4, weight_decay=0.05)


def main(argv=None) -> LitSegmentor:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--checkpoint")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=96)
    args = parser.parse_args(argv)
    module = LitSegmentor(args.arch, args.checkpoint)
    trainer = lightning.Trainer(
        max_steps=args.steps, logger=False, enable_checkpointing=False, log_every_n_steps=1
    )
    trainer.fit(module, DataLoader(Squares(args.side), batch_size=4))
    return module


if __name__ == "__main__":
    main()
