"""Count what a detector's training step asks of a GPU: operators, and places where the host would
wait for it; of the stock model and accelerated.

    python tests/count_waits.py dino retinanet
    python tests/count_waits.py --layers 6 --places dino

Two images of 12 objects each go through the small models of tests/helpers/detector_steps.py, on a
CPU. Some places are none on a GPU: copies of numbers that are pinned there, a CPU's own losses.
``--places`` says which there are in an accelerated step. Views of tensors are no operators here.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from benchmarking import detectors
from benchmarking.segmentors import Task
from helpers.detector_steps import build, step
from helpers.waits import places_of_waits

import swin_backbone

SIZE = (64, 96)
HEAD = ("operators", "accelerated", "waits", "accelerated")
#: Operators that start nothing.
VIEWS = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand",
    "lift_fresh", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unfold", "unsqueeze", "view",
}  # fmt: skip


class Operators(TorchDispatchMode):
    """Counts what is called while it is entered."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        self.number += called._schema.name.partition("::")[2] not in VIEWS
        return called(*args, **(kwargs or {}))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=detectors.CONFIGS)
    parser.add_argument("--layers", type=int, default=2, help="of encoders and decoders")
    parser.add_argument("--places", action="store_true", help="each place of an accelerated step")
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    try:
        report(arguments.models, arguments.layers, arguments.places)
    finally:
        logging.disable(logging.NOTSET)
    return 0


def report(models: list[str], layers: int, places: bool) -> None:
    print(" " * 12 + "".join(f"{name:>12}" for name in HEAD), flush=True)
    for name in models:
        stock = build(name, layers).train()
        fast = copy.deepcopy(stock)
        swin_backbone.accelerate(fast)
        (before, _), (after, found) = (counted(model, name) for model in (stock, fast))
        numbers = before[0], after[0], before[1], after[1]
        print(f"{name:12}" + "".join(f"{number:12,}" for number in numbers), flush=True)
        for place, number in found.most_common() if places else ():
            print(f"{number:4} {place}")


def counted(model: torch.nn.Module, name: str):
    """Operators and waits of a step, and the places of these."""
    images = torch.randn(2, 3, *SIZE)
    samples = detectors.draw_samples(Task(name, 2, "train", SIZE), "cpu")

    def run():
        step(model, images, copy.deepcopy(samples), seed=0)

    run()  # what is kept from step to step
    with Operators() as operators:
        run()
    places = places_of_waits(run)
    return (operators.number, sum(places.values())), places


if __name__ == "__main__":
    sys.exit(main())
