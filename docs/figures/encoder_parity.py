"""The tables of docs/encoders.md: how far accelerated encoders are from untouched ones.

python docs/figures/encoder_parity.py      (needs the libraries; prints markdown)
"""

import copy
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from helpers.errors import relative_error
from helpers.models_with_swin import make_case
from helpers.outputs_of_models import MODELS, SIZES, outputs_of, sizes_of
from helpers.peers import PAIRS, PEERS, make_theirs

import swin_backbone

DTYPES = (torch.float32, torch.float64)


def differentiate(run, model, images):
    images = images.clone().requires_grad_()
    model.zero_grad()
    maps = run(model, images)
    sum(m.square().sum() for m in maps).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return [torch.cat([m.detach().flatten() for m in maps]), torch.cat([*gradients])]


def errors(run, model, images):
    """Of maps, or other outputs, and of the gradients of all parameters."""
    fast = copy.deepcopy(model)
    swin_backbone.accelerate(fast)
    pairs = zip(differentiate(run, fast, images), differentiate(run, model, images), strict=True)
    return " / ".join(f"{relative_error(ours, theirs):.0e}" for ours, theirs in pairs)


def head(name):
    columns = [f"{rows}\u00d7{cols}, {str(d)[6:]}" for d in DTYPES for rows, cols in SIZES]
    print(f"| {name} | {' | '.join(columns)} |\n| --- {'| ---: ' * len(columns)}|")


def main():
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    head("encoder")
    for name, version in PAIRS:
        cells = []
        for dtype in DTYPES:
            for size in SIZES:
                if name == "mmpretrain":  # it refuses maps smaller than a window
                    size = tuple(max(side, 64) for side in size)
                model = make_theirs(name, version, image_size=size).to(dtype)
                cells.append(errors(PEERS[name].maps, model, torch.randn(2, 3, *size, dtype=dtype)))
        print(f"| {name}, {version.upper()} | {' | '.join(cells)} |", flush=True)
    print()
    head("model")
    for name in MODELS:
        cells = []
        for dtype in DTYPES:
            for size in SIZES:
                if size not in sizes_of(name):
                    cells.append("")
                    continue
                model, _ = make_case(name)
                images = torch.randn(2, 3, *size, dtype=dtype)
                cells.append(errors(outputs_of(name), model.to(dtype), images))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
