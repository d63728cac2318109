"""Other libraries' models that hold a Swin: as they are, accelerated, with graphs, compiled, both.

    python benchmarks/benchmark_encoders.py --csv results.csv
    python benchmarks/benchmark_encoders.py --cases timm-B upernet-T --modes train
    python benchmarks/benchmark_encoders.py --cases upernet-T --profile
    python benchmarks/benchmark_encoders.py --ways compiled accelerated-compiled --time-limit 600
    python benchmarks/benchmark_encoders.py --device cpu --size 64 --batch 1 --cases backbone-T

Random weights from configs and random images: nothing is downloaded. A forward pass is one of a
model in evaluation mode without gradients; a training step is forward, backward and a step of
AdamW, of a sum of what the model returns. On a GPU both are in bfloat16 autocast, and kernels are
compiled together beforehand. In each round every way has a turn; medians are reported, and what
fails is a row with the reason. The CSV file is written after each case and mode; at the time limit
whatever runs is broken off, and what is left becomes rows that say so.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from benchmarking.profiling import as_table, take_apart
from benchmarking.results import describe_device, environment_versions, now
from benchmarking.runners import (
    Runner,
    bytes_of_graphs,
    forget_models,
    take_turns,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from swin_backbone import accelerate, compile_kernels
from swin_backbone.atomic_files import write_text
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.csv_text import as_csv
from swin_backbone.graphs import graphed_backbones
from swin_backbone.inference.timing import Deadline, wall_seconds

WAYS = ("untouched", "accelerated", "graphs", "compiled", "accelerated-compiled")
#: Those that have our operations, and those that torch.compile makes code of.
ACCELERATED = ("accelerated", "graphs", "accelerated-compiled")
COMPILED = ("compiled", "accelerated-compiled")
MODES = ("forward", "train")
WARM_UP = 4
COLUMNS = ("date", "device", "torch", "case", "mode", "way", "ms", "times", "peak_gb", "reason")
STAGES = ["stage1", "stage2", "stage3", "stage4"]
#: Channels, depths and heads.
SIZES = {
    "T": (96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "B": (128, [2, 2, 18, 2], [4, 8, 16, 32]),
    "L": (192, [2, 2, 18, 2], [6, 12, 24, 48]),
}


@dataclass(frozen=True)
class Case:
    """A model of a library.

    Args:
        make: builds it with random weights.
        batch: images at a time.
        size: rows and columns of the images, in pixels.
    """

    make: Callable[[int], nn.Module]
    batch: int
    size: int


def transformers_config(letter: str, size: int, kind: str = "Swin"):
    import transformers

    embed_dim, depths, num_heads = SIZES[letter]
    window = 8 if kind == "Swinv2" else 7
    return getattr(transformers, f"{kind}Config")(
        image_size=size, embed_dim=embed_dim, depths=depths, num_heads=num_heads,
        window_size=window, out_features=STAGES,
    )  # fmt: skip


def alone(name: str, letter: str, kind: str = "Swin") -> Callable[[int], nn.Module]:
    def make(size: int) -> nn.Module:
        import transformers

        return getattr(transformers, name)(transformers_config(letter, size, kind))

    return make


def around(name: str, letter: str, **options) -> Callable[[int], nn.Module]:
    def make(size: int) -> nn.Module:
        import transformers

        model = getattr(transformers, name)
        backbone = transformers_config(letter, size)
        return model(model.config_class(backbone_config=backbone, **options))

    return make


def timm_features(name: str) -> Callable[[int], nn.Module]:
    def make(size: int) -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, features_only=True, img_size=size)

    return make


def torchvision_model(name: str) -> Callable[[int], nn.Module]:
    def make(size: int) -> nn.Module:
        import torchvision

        return getattr(torchvision.models, name)()

    return make


def mmseg_backbone(size: int) -> nn.Module:
    from mmseg.models.backbones import SwinTransformer

    return SwinTransformer()


CASES = {
    "backbone-T": Case(alone("SwinBackbone", "T"), 16, 512),
    "backbone-L": Case(alone("SwinBackbone", "L"), 8, 512),
    "upernet-T": Case(around("UperNetForSemanticSegmentation", "T", num_labels=150), 8, 512),
    "mask2former-T": Case(around("Mask2FormerForUniversalSegmentation", "T"), 4, 512),
    "mask2former-L": Case(around("Mask2FormerForUniversalSegmentation", "L"), 4, 512),
    "classifier-B": Case(alone("SwinForImageClassification", "B"), 128, 224),
    "timm-B": Case(timm_features("swin_base_patch4_window7_224"), 8, 512),
    "torchvision-v2-T": Case(torchvision_model("swin_v2_t"), 64, 256),
    "torchvision-T": Case(torchvision_model("swin_t"), 64, 224),
    "swinv2-T": Case(alone("Swinv2Backbone", "T", "Swinv2"), 16, 512),
    "mmseg-T": Case(mmseg_backbone, 16, 512),
}


class TimeIsUp(BaseException):
    """The time limit has passed; no failure of what runs then."""


@command
def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    warnings.filterwarnings("ignore")
    console, deadline, lines = Console(width=150), Deadline(options.time_limit), []
    for case in options.cases:
        for mode in options.modes:
            runners = measure(case, mode, options, deadline)
            lines += show(case, mode, runners, options.device, console)
            if options.csv:
                write_csv(options.csv, lines)
            if options.profile:
                until(deadline, runners, partial(profile, case, mode, runners, options, console))
            forget_models(runners)
    return 0


def until(deadline: Deadline, runners: list[Runner], run: Callable[[], None]) -> None:
    """Run something that ends at the time limit; runners without a time then say so."""
    try:
        if deadline.limit is None:
            run()
        elif not deadline.passed:
            previous = signal.signal(signal.SIGALRM, raise_time_is_up)
            try:
                signal.setitimer(signal.ITIMER_REAL, max(deadline.limit - deadline.elapsed, 1e-6))
                run()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, previous)
    except TimeIsUp:
        pass  # what it had no time for says so
    for runner in runners:
        if deadline.passed and not runner.samples:
            runner.reason = runner.reason or "the time limit has passed"


def raise_time_is_up(*_: object) -> None:
    raise TimeIsUp


def profile(case: str, mode: str, runners: list[Runner], options, console: Console) -> None:
    for runner in runners:
        if runner.samples:
            wall = statistics.median(runner.samples)
            taken = take_apart(runner.step, options.device, wall, f"{case} {mode} {runner.name}", 3)
            console.print(as_table(taken, 40))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    add("--modes", nargs="+", choices=MODES, default=list(MODES))
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS[:2]))
    add("--batch", type=int, help="images at a time; default: the case's")
    add("--size", type=int, help="rows and columns of the images; default: the case's")
    add("--repeats", type=int, default=5, help="rounds")
    add("--time-limit", type=float, metavar="SECONDS", help="what runs is broken off then")
    add("--device", choices=["cuda", "cpu"], default=device)
    add("--csv", type=Path, help="write the results, after each case")
    add("--profile", action="store_true", help="and the kernels of a step")
    options = parser.parse_args(arguments)
    for name in ("repeats", "batch", "size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return options


def measure(name: str, mode: str, options, deadline: Deadline) -> list[Runner]:
    """Build, warm up and time each way of a case."""
    runners = [Runner(way, nn.Identity(), torch.empty(0), lambda: None) for way in options.ways]

    def run() -> None:
        for runner in runners:
            prepare(runner, name, mode, options)
        take_turns(runners, options.device, options.repeats, deadline)

    until(deadline, runners, run)
    return runners


def prepare(runner: Runner, name: str, mode: str, options) -> None:
    """Build a model, compile its kernels, warm it up, and find its peak of memory."""
    case, device = CASES[name], options.device
    try:
        size = options.size or case.size
        torch.manual_seed(0)
        with torch.device(device):
            model = case.make(size)
        model.to(device).train(mode == "train")
        images = torch.randn(options.batch or case.batch, 3, size, size, device=device)
        if runner.name in ACCELERATED:
            accelerate(model, graphs=runner.name == "graphs")
            compile_kernels(model, make_pass(model, images, mode))
        run = torch.compile(model) if runner.name in COMPILED else model
        step = make_step(model, make_pass(run, images, mode), mode)
        runner.model, runner.images, runner.step = model, images, step
        for _ in range(WARM_UP):
            wall_seconds(step, device)
        if runner.name == "graphs":
            check_graphs(model)
            runner.held_bytes = lambda: bytes_of_graphs(model)
        if device == "cuda":
            runner.measure_peak()
    except Exception as error:
        runner.fail(error)


def check_graphs(model: nn.Module) -> None:
    """Raise unless the encoder is replayed by now."""
    graphed = graphed_backbones(model)
    reasons = [graphs.reason for graphs in graphed if graphs.reason]
    if reasons or not any(graphs.shapes for graphs in graphed):
        raise RuntimeError(f"there are no graphs: {'; '.join(reasons) or 'nothing was captured'}")


def make_pass(run: Callable, images: Tensor, mode: str) -> Callable[[], None]:
    """Forward in evaluation, or forward and backward."""

    def forward() -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            return sum(part.float().mean() for part in floating(run(images)))

    def predict() -> None:
        with torch.no_grad():
            forward()

    return predict if mode == "forward" else lambda: forward().backward()


def make_step(model: nn.Module, one_pass: Callable[[], None], mode: str) -> Callable[[], None]:
    if mode == "forward":
        return one_pass
    fused = next(model.parameters()).is_cuda
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused)

    def train() -> None:
        optimizer.zero_grad()
        one_pass()
        optimizer.step()

    return train


def floating(outputs: object) -> list[Tensor]:
    """The floating-point tensors in what a model returns."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if hasattr(outputs, "values"):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        return [tensor for part in outputs for tensor in floating(part)]
    return []


def show(name: str, mode: str, runners: list[Runner], device: str, console: Console) -> list[dict]:
    """Print a table, and return its rows for the CSV file."""
    medians = [statistics.median(r.samples) if r.samples else None for r in runners]
    first = medians[0]
    lines = []
    table = Table("way", "ms", "times", "peak GB", title=f"{name} {mode}", title_justify="left")
    for runner, median in zip(runners, medians, strict=True):
        line = {
            "date": now(),
            "device": describe_device(device),
            "torch": environment_versions()["torch"],
            "case": name,
            "mode": mode,
            "way": runner.name,
            "ms": f"{1e3 * median:.2f}" if median else "",
            "times": f"{first / median:.2f}" if first and median else "",
            "peak_gb": f"{runner.peak_bytes / 1e9:.2f}" if runner.peak_bytes else "",
            "reason": runner.reason or "",
        }
        lines.append(line)
        table.add_row(runner.name, line["ms"] or line["reason"], line["times"], line["peak_gb"])
    console.print(table)
    return lines


def write_csv(path: Path, lines: list[dict]) -> None:
    write_text(path, as_csv(lines, COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
