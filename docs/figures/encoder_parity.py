"""The table of docs/encoders.md: how far accelerated encoders are from untouched ones.

python docs/figures/encoder_parity.py      (needs the libraries; prints markdown)
"""

import copy
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from helpers.errors import relative_error
from helpers.models_with_swin import CASES, IMAGE, make_case, maps_of
from helpers.peers import PAIRS, PEERS, make_theirs

import swin_backbone

SIZES = ((64, 64), (72, 40), (92, 60))
DTYPES = (torch.float32, torch.float64)


def differentiate(run, model, images):
    images = images.clone().requires_grad_()
    model.zero_grad()
    maps = run(model, images)
    sum(m.square().sum() for m in maps).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return [torch.cat([m.detach().flatten() for m in maps]), torch.cat([*gradients])]


def errors(run, model, images):
    """Of maps and of the gradients of all parameters."""
    fast = copy.deepcopy(model)
    swin_backbone.accelerate(fast)
    pairs = zip(differentiate(run, fast, images), differentiate(run, model, images), strict=True)
    return " / ".join(f"{relative_error(ours, theirs):.0e}" for ours, theirs in pairs)


def main():
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    columns = [f"{rows}x{cols}, {str(d)[6:]}" for d in DTYPES for rows, cols in SIZES]
    print(f"| encoder | {' | '.join(columns)} |\n| --- {'| ---: ' * len(columns)}|")
    for name, version in PAIRS:
        cells = []
        for dtype in DTYPES:
            for size in SIZES:
                if name == "mmpretrain":  # it refuses maps smaller than a window
                    size = tuple(max(side, 64) for side in size)
                model = make_theirs(name, version, image_size=size).to(dtype)
                cells.append(errors(PEERS[name].maps, model, torch.randn(2, 3, *size, dtype=dtype)))
        print(f"| {name}, {version.upper()} | {' | '.join(cells)} |", flush=True)
    print(f"\n| model | {IMAGE}x{IMAGE}, float32 |\n| --- | ---: |")
    for name in CASES:
        if "extractor" not in name:
            model, _ = make_case(name)
            print(
                f"| {name} | {errors(maps_of, model, torch.randn(2, 3, IMAGE, IMAGE))} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
