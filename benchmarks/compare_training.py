"""Train one config in several variants, everything else being equal, and plot them.

    python benchmarks/compare_training.py train CONFIG --work-dir OUT [--seed N]
        [--variant NAME [KEY=VALUE ...]] ... [--cfg-options KEY=VALUE ...]
    python benchmarks/compare_training.py plot OUT [OUT ...] --to curves.png

A variant is a name and what it changes in the config. ``SwinBackbone`` and ``SwinTransformer``
(mmseg's, or mmdet's for a detector) need no changes spelt out, and are the default; nor does
``accelerated``, ours with all that makes a whole model fast. Two attention backends are compared
with

    --variant triton model.backbone.backend=triton
    --variant reference model.backbone.backend=reference

``train`` runs the variants one after the other, each in ``OUT/NAME-seed<N>``. ``plot`` draws loss
and mIoU (a detector's box and mask AP) of all runs found, finished or not, and prints a table in
Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from rich import box
from rich.console import Console
from rich.table import Table

import swin_backbone  # noqa: F401  (registers SwinBackbone)
from swin_backbone.atomic_files import write_text, write_whole
from swin_backbone.cli.argument_types import config as config_type
from swin_backbone.cli.argument_types import number, picture
from swin_backbone.cli.argument_types import seed as seed_type
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.config_options import add_config_options
from swin_backbone.cli.launching import build_runner
from swin_backbone.model.arguments import ARCHITECTURES
from swin_backbone.openmmlab.config_files import change_config, read_config
from swin_backbone.openmmlab.whole_models import kind_of

#: Variants that are known by name; what they change in the config. ``{scope}`` is the config's.
VARIANTS = {
    "SwinBackbone": {"model.backbone.type": "SwinBackbone"},
    "SwinTransformer": {"model.backbone.type": "{scope}.SwinTransformer"},
    # As --with fast of tools/train.py, but for the precision, which is better equal for all.
    "accelerated": {
        "model.backbone.type": "SwinBackbone",
        "default_hooks.accelerate.type": "AccelerateHook",
        "optim_wrapper.optimizer.fused": True,
        "optim_wrapper.constructor": "MergedGroupsOptimWrapperConstructor",
        "env_cfg.cudnn_benchmark": True,
    },
}
DEFAULT = {name: VARIANTS[name] for name in ("SwinBackbone", "SwinTransformer")}
#: What is logged of an evaluation: its name here, and what makes it percent.
SCORES = {"mIoU": ("mIoU", 1), "coco/bbox_mAP": ("box AP", 100), "coco/segm_mAP": ("mask AP", 100)}
WARM_UP = 50  # iterations left out of the speed
DESCRIPTION = "run.json"  # in a run's work dir: what the run is


class VariantAction(DictAction):
    """Collect ``NAME [KEY=VALUE ...]`` of each occurrence into a dictionary of dictionaries."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Parse one occurrence.

        Raises:
            argparse.ArgumentError: if the name is new and nothing says what it changes.
        """
        name, *changes = values
        wrong = [change for change in values[1:] if "=" not in change]
        if "=" in name or wrong:
            raise argparse.ArgumentError(self, f"expected NAME [KEY=VALUE ...], got {values}")
        if not changes and name not in VARIANTS:
            known = ", ".join(VARIANTS)
            raise argparse.ArgumentError(
                self, f"{name!r} is none of {known}, so it needs KEY=VALUE changes"
            )
        parsed = argparse.Namespace()
        setattr(parsed, self.dest, None)
        super().__call__(parser, parsed, changes, option_string)
        variants = dict(getattr(namespace, self.dest) or {})
        variants[name] = VARIANTS.get(name, {}) | getattr(parsed, self.dest)
        setattr(namespace, self.dest, variants)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train the config")
    train.add_argument("config", type=config_type)
    train.add_argument("--work-dir", type=Path, required=True)
    train.add_argument(
        "--variant",
        dest="variants",
        nargs="+",
        action=VariantAction,
        metavar=("NAME", "KEY=VALUE"),
        help=f"a variant to train; default: {' and '.join(DEFAULT)}",
    )
    train.add_argument("--seed", type=seed_type, default=0)
    train.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="replay backbone and heads as CUDA graphs in training, so that the GPU and not "
        "the launching of kernels sets the pace; needs training crops of one size",
    )
    train.add_argument(
        "--channels-last",
        action="store_true",
        help="keep convolutions' weights in the memory layout that the GPU computes in",
    )
    add_config_options(train)
    train.set_defaults(run=run_training)
    plot = commands.add_parser("plot", help="draw the curves of runs")
    plot.add_argument("folders", type=Path, nargs="+")
    plot.add_argument("--to", type=picture, required=True, help="PNG to write")
    plot.add_argument(
        "--over",
        choices=["iterations", "seconds"],
        default="iterations",
        help="seconds: of training, with its waiting for data, without evaluations",
    )
    plot.add_argument(
        "--smoothing",
        type=number(0, 0.999),
        default=0.9,
        help="weight of the past in the losses, [0, 1)",
    )
    plot.set_defaults(run=run_plot)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


def run_training(arguments: argparse.Namespace) -> None:
    for name, changes in (arguments.variants or DEFAULT).items():
        cfg = make_config(arguments, name, changes)
        description = {"variant": name, "seed": arguments.seed, "config": arguments.config}
        write_text(Path(cfg.work_dir, DESCRIPTION), json.dumps(description))
        runner = build_runner(cfg)
        if arguments.channels_last:
            runner.register_hook(ChannelsLastHook())
        if arguments.cuda_graphs:
            runner.register_hook(CudaGraphHook(cfg))
        runner.train()


def make_config(arguments: argparse.Namespace, name: str, changes: dict) -> Config:
    """The config of one variant."""
    cfg = read_config(arguments.config, arguments.cfg_options)
    kind_of(cfg, f"config {arguments.config!r}")
    change_config(cfg, changes)
    cfg.model.backbone.type = cfg.model.backbone.type.format(scope=cfg.default_scope)
    cfg.model.backbone = spell_out_arch(cfg.model.backbone)
    cfg.randomness = {"seed": arguments.seed}
    cfg.visualizer.name = f"{name}-seed{arguments.seed}"  # visualizers are shared by name
    cfg.work_dir = str(arguments.work_dir / f"{name}-seed{arguments.seed}")
    # Writing the config out prettily takes seconds.
    return Config(cfg.to_dict(), format_python_code=False)


def spell_out_arch(backbone: dict) -> dict:
    """The same backbone for a type that does not know ``arch`` and ``backend``."""
    if backbone["type"] == "SwinBackbone":
        return backbone
    backbone = dict(backbone)
    backbone.pop("backend", None)
    arch = backbone.pop("arch", None)
    if arch is not None:
        sizes = zip(("embed_dims", "depths", "num_heads"), ARCHITECTURES[arch], strict=True)
        backbone |= dict(sizes)
    return backbone


class ChannelsLastHook(Hook):
    """Lay out the weights of convolutions as (out, rows, columns, in) in memory."""

    priority = "HIGH"  # before graphs are captured

    def before_train(self, runner) -> None:
        """Change the layout; values and shapes stay."""
        runner.model.to(memory_format=torch.channels_last)


class CudaGraphHook(Hook):
    """Capture the training passes of backbone and heads before the first step.

    Args:
        cfg: the run's config: batch size, crop size and precision.
    """

    def __init__(self, cfg: Config):
        self.size = (cfg.train_dataloader.batch_size, 3, *cfg.model.data_preprocessor.size)
        self.dtype = getattr(torch, cfg.optim_wrapper.get("dtype", "float32"))

    def before_train(self, runner) -> None:
        """Exchange the modules' ``forward``; in evaluation the original runs."""
        model = runner.model.train()
        images = torch.randn(self.size, device="cuda")
        enabled = self.dtype != torch.float32
        with torch.autocast("cuda", self.dtype, enabled=enabled, cache_enabled=False):
            maps = [m.detach().requires_grad_() for m in model.backbone(images)]
            modules = (model.backbone, model.decode_head, model.auxiliary_head)
            inputs = ((images,), (maps,), (maps,))  # the auxiliary head leaves some maps unused
            torch.cuda.make_graphed_callables(modules, inputs, allow_unused_input=True)


def run_plot(arguments: argparse.Namespace) -> None:
    runs = [run for folder in arguments.folders for run in find_runs(folder)]
    if not runs:
        raise FileNotFoundError(f"no run under {', '.join(map(str, arguments.folders))}")
    print_table(runs)
    draw(runs, arguments.to, arguments.smoothing, arguments.over)


def find_runs(folder: Path) -> list[dict]:
    """What the runs below a folder are, and how they went; those that logged nothing are left."""
    runs = []
    for description in sorted(folder.rglob(DESCRIPTION)):
        logs = sorted(description.parent.glob("*/vis_data/scalars.json"))
        if logs:
            runs.append({**json.loads(description.read_text()), **summarise(logs[-1])})
    return runs


def summarise(log: Path) -> dict:
    """Loss and scores by iteration, seconds an iteration and peak memory of one run's log."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if SCORES.keys() & record.keys()]
    keys = [key for key in SCORES if any(key in record for record in evaluations)]
    times = [record["time"] for record in steps if record["iter"] > WARM_UP]
    iterations = [record["iter"] for record in steps]
    return {
        "iterations": iterations,
        "seconds": elapsed(iterations, [record["time"] for record in steps]),
        "loss": [record["loss"] for record in steps],
        "score_iterations": [record["step"] for record in evaluations],
        "scores": {SCORES[key][0]: [r[key] * SCORES[key][1] for r in evaluations] for key in keys},
        "seconds_per_iteration": statistics.median(times) if times else None,
        "peak_memory_mib": max((record.get("memory", 0) for record in steps), default=0),
    }


def elapsed(iterations: list[int], seconds_each: list[float]) -> list[float]:
    """Seconds of training up to each of these iterations.

    Args:
        iterations: that were logged.
        seconds_each: of an iteration, the mean since the one before.
    """
    total, before, result = 0.0, 0, []
    for iteration, seconds in zip(iterations, seconds_each, strict=True):
        total += max(iteration - before, 0) * seconds  # a resumed run's log goes back
        before = iteration
        result.append(total)
    return result


def positions(run: dict, iterations: list[int], over: str) -> list[float]:
    """Where values of these iterations stand in a plot over iterations or seconds."""
    if over == "iterations" or not run["iterations"]:
        return iterations
    return np.interp(iterations, [0, *run["iterations"]], [0, *run["seconds"]]).tolist()


def print_table(runs: list[dict]) -> None:
    scores = score_names(runs)
    columns = [f"{which} {name}" for name in scores for which in ("last", "best")]
    names = ("config", "variant", "seed", "iterations", *columns, "iter/s", "MiB")
    table = Table(*names, box=box.MARKDOWN)
    for run in runs:
        seconds = run["seconds_per_iteration"]
        table.add_row(
            Path(run["config"]).stem,
            run["variant"],
            str(run["seed"]),
            str(max(run["iterations"], default=0)),
            *(text for name in scores for text in last_and_best(run["scores"].get(name))),
            f"{1 / seconds:.2f}" if seconds else "-",
            f"{run['peak_memory_mib']}",
        )
    Console(width=160).print(table)


def last_and_best(values: list[float] | None) -> tuple[str, str]:
    """As the table shows them; a dash where there are none."""
    return (f"{values[-1]:.2f}", f"{max(values):.2f}") if values else ("-", "-")


def score_names(runs: list[dict], least: int = 1) -> list[str]:
    """Scores of which any of the runs has at least so many values."""
    values = [item for run in runs for item in run["scores"].items()]
    return list(dict.fromkeys(name for name, scores in values if len(scores) >= least))


def draw(runs: list[dict], path: Path, smoothing: float, over: str = "iterations") -> None:
    """Losses, and beside them scores with a curve to draw: a colour a variant, a line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scores = score_names(runs, least=2)
    columns = 1 + len(scores)
    figure, axes = plt.subplots(1, columns, figsize=(6 * columns, 4.5), squeeze=False)
    variants = list(dict.fromkeys(run["variant"] for run in runs))
    for run in runs:
        style = {
            "color": f"C{variants.index(run['variant'])}",
            "linestyle": ["-", "--", ":"][run["seed"] % 3],
            "label": f"{run['variant']}, seed {run['seed']}",
        }
        losses = smooth(run["loss"], smoothing)
        axes[0, 0].plot(positions(run, run["iterations"], over), losses, linewidth=1, **style)
        for panel, name in zip(axes[0, 1:], scores, strict=True):
            if name in run["scores"]:
                places = positions(run, run["score_iterations"], over)
                panel.plot(places, run["scores"][name], marker="o", markersize=3, **style)
    label = f"training loss (smoothed, {smoothing:g})" if smoothing else "training loss"
    across = "iteration" if over == "iterations" else "seconds of training"
    axes[0, 0].set(xlabel=across, ylabel=label, yscale="log")
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_minor_formatter("{x:.2g}")
    for panel, name in zip(axes[0, 1:], scores, strict=True):
        panel.set(xlabel=across, ylabel=f"val {name}, %")
    for panel in axes.flat:
        panel.grid(alpha=0.3, which="both")
        panel.legend()
    figure.suptitle(", ".join(sorted({Path(run["config"]).stem for run in runs})), fontsize=10)
    figure.tight_layout()
    write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=110))


def smooth(values: list[float], weight: float) -> list[float]:
    """Exponential moving average, unbiased at the start."""
    smoothed, average, norm = [], 0.0, 0.0
    for value in values:
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        smoothed.append(average / norm)
    return smoothed


if __name__ == "__main__":
    sys.exit(main())
