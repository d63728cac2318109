"""Write a model to a file that runs without this package, for images of any size.

    swin-backbone export CONFIG [CHECKPOINT] --out model.onnx
    swin-backbone export tiny --part backbone --out swin.onnx
    swin-backbone export CONFIG CHECKPOINT --format aot-inductor --out model.pt2

Batch, height and width of the input stay free, from 1; a detector takes one image, and is exported
as ONNX alone. The file is then compared with PyTorch on sizes that it was not made with; the exit
status is 1 if an output differs by more than 1e-4 of the largest value, or a detector's boxes by
more than 1e-3 pixels or their scores by more than 1e-4, beyond what PyTorch itself is off by.
Preprocessing, classes and strides are written into the file's metadata.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..inference.export import (
    FORMATS,
    ExportedModel,
    check_format,
    detections,
    load,
    trace,
    write_program,
)
from ..inference.export.detector_check import PIXELS, SCORE, agreement, stock_boxes
from ..inference.export_models import backbone_and_card, whole_model_and_card
from .argument_types import backbone, positive
from .commands import Parser, command
from .config_options import add_config_options

#: Batch, height, width: odd ones, ones smaller than a patch or a window, larger than the example.
CHECKED_SIZES = ((1, 1, 1), (1, 3, 50), (3, 29, 30), (1, 64, 64), (2, 75, 41), (1, 161, 258))
TOLERANCE = 1e-4


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, description="Export a model for images of any size.")
    parser.add_argument(
        "config",
        type=backbone,
        help="a config, or its name; with --part backbone also an architecture",
    )
    parser.add_argument("checkpoint", nargs="?", help="default: the config's, or random weights")
    parser.add_argument("--out", type=Path, required=True, help="the file, .onnx or .pt2")
    parser.add_argument("--format", choices=list(FORMATS), help="default: by the suffix of --out")
    parser.add_argument(
        "--part", choices=["model", "backbone"], default="model", help="how much to export"
    )
    parser.add_argument(
        "--time", type=positive, nargs=2, metavar=("H", "W"), help="time this size too"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="go on where a checkpoint lacks tensors"
    )
    add_config_options(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    make = backbone_and_card if arguments.part == "backbone" else whole_model_and_card
    file_format = arguments.format or _format_of(arguments.out)
    check_format(file_format, arguments.out)
    model, card = make(
        arguments.config, arguments.checkpoint, arguments.cfg_options, arguments.allow_missing
    )
    check_format(file_format, arguments.out, card.kind)
    traced = detections(model) if card.kind == "detector" else model
    if arguments.checkpoint is None and getattr(model, "backbone", model).init_cfg is None:
        say("no checkpoint: the weights are random")
    say("tracing")
    program = trace(traced)
    say(f"writing {file_format}")
    write_program(program, card, arguments.out, file_format)
    exported = load(arguments.out)
    check = check_boxes if card.kind == "detector" else check_outputs
    same = check(model, exported, arguments.out)
    if arguments.time:
        run = stock_boxes if card.kind == "detector" else _outputs
        print_times(lambda images: run(model, images), exported, tuple(arguments.time))
    return 0 if same else 1


def check_outputs(model: nn.Module, exported: ExportedModel, path: Path) -> bool:
    """Whether the maps or scores are PyTorch's; says how near."""
    error, excess = largest_difference(model, exported)
    say(f"wrote {path}: differs from PyTorch by {error:.1e} at most, relatively")
    same = excess <= TOLERANCE
    if not same:
        say(f"more than {TOLERANCE:.0e}, rounding aside")
    return same


def check_boxes(detector: nn.Module, exported: ExportedModel, path: Path) -> bool:
    """Whether the boxes are those of mmdet in PyTorch; says how many were compared."""
    found, strays = agreement(detector, exported)
    say(f"wrote {path}: {found} boxes of PyTorch compared on random images")
    if not found and not strays:
        say("nothing was found in them, so no box could be compared: look at images of yours")
    if strays:
        say(
            f"{strays} boxes are only in PyTorch's or only in the file's, to {PIXELS:g} pixels and "
            f"{SCORE:g} of the score, rounding aside"
        )
    return not strays


def say(text: str) -> None:
    """Progress and results, which are not the command's output."""
    print(text, file=sys.stderr)


def _format_of(path: Path) -> str:
    return "onnx" if path.suffix == ".onnx" else "torch-export"


def largest_difference(model: nn.Module, exported: ExportedModel) -> tuple[float, float]:
    """Largest difference of an output, relative to its largest value, over all checked sizes: as it
    is, and without what PyTorch itself is off by.

    Of an image of a pixel, a norm of few equal values may magnify float32's rounding a
    thousandfold: no file can then be nearer to PyTorch than PyTorch is to the exact result.
    """
    found = []
    for batch, height, width in CHECKED_SIZES:
        inputs = [torch.randn(batch, len(exported.card.mean), height, width, device="cpu")]
        if "valid_sizes" in exported.card.inputs:
            sides = [torch.randint(1, side + 1, (batch,), device="cpu") for side in (height, width)]
            inputs.append(torch.stack(sides, dim=1))
        outputs = _outputs(model, *inputs)
        difference = _difference(exported(*inputs), outputs)
        rounding = _rounding(model, inputs, outputs) if difference > TOLERANCE else 0.0
        found.append((difference, difference - rounding))
    # NaN, too, unlike Python's max.
    difference, excess = torch.tensor(found, device="cpu").amax(0).tolist()
    return difference, excess


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest, relative to the largest value of each of ``expected``."""
    errors = []
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape:
            raise RuntimeError(f"exported {tuple(a.shape)} is not {tuple(b.shape)}")
        errors.append((a - b).abs().max() / b.abs().max())
    return float(torch.stack(errors).max())


def _rounding(model: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """How far ``outputs`` of ``model`` are from those in float64."""
    exact = copy.deepcopy(model).double()
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    return _difference(_outputs(exact, *wide), outputs)


def _outputs(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        outputs = model(*inputs)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def print_times(
    run: Callable[[Tensor], object], exported: ExportedModel, size: tuple[int, int]
) -> None:
    """Median time of one image of ``size`` in both, by the clock and of the processor."""
    images = torch.randn(1, len(exported.card.mean), *size, device="cpu")
    ours, theirs = median_times(lambda: run(images), lambda: exported(images))
    say(
        f"1x{size[0]}x{size[1]}, {torch.get_num_threads()} threads: PyTorch {ours}, "
        f"exported {theirs}"
    )


class Times(NamedTuple):
    """Seconds: by the clock, and that the process's threads worked, which is what a shared machine
    leaves comparable."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{1e3 * self.wall:.1f} ms ({1e3 * self.cpu:.1f} ms of CPU time)"


def median_times(*runs: Callable[[], object], warm_up: int = 2, repeat: int = 9) -> list[Times]:
    """Medians, taken in turns, so that what else the machine does falls on all alike."""
    times: list[list[tuple[float, float]]] = [[] for _ in runs]
    for turn in range(warm_up + repeat):
        for run, record in zip(runs, times, strict=True):
            begin = time.perf_counter(), time.process_time()
            run()
            if turn >= warm_up:
                end = time.perf_counter(), time.process_time()
                record.append((end[0] - begin[0], end[1] - begin[1]))
    return [Times(*map(statistics.median, zip(*record, strict=True))) for record in times]
