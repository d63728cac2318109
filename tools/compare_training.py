"""Train one config with SwinBackbone and with mmseg's SwinTransformer, and plot both.

    python tools/compare_training.py train CONFIG --work-dir OUT [--backbone NAME] [--seed N]
    python tools/compare_training.py plot OUT [OUT ...] --to curves.png

``train`` runs the config with the backbone named (default: both, one after the other), everything
else being equal, and leaves ``OUT/<backbone>-seed<N>/summary.json``. ``plot`` draws the loss and
mIoU of all runs found and prints the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

import swin_backbone  # noqa: F401  (registers SwinBackbone)
from swin_backbone.arguments import ARCHITECTURES

BACKBONES = {"SwinBackbone": "SwinBackbone", "SwinTransformer": "mmseg.SwinTransformer"}
WARM_UP = 50  # iterations left out of the speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train the config")
    train.add_argument("config")
    train.add_argument("--work-dir", type=Path, required=True)
    train.add_argument("--backbone", choices=BACKBONES, action="append", help="default: both")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="replay backbone and heads as CUDA graphs in training, so that the GPU and not "
        "the launching of kernels sets the pace; needs training crops of one size",
    )
    train.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    train.set_defaults(run=run_training)
    plot = commands.add_parser("plot", help="draw the curves of finished runs")
    plot.add_argument("folders", type=Path, nargs="+")
    plot.add_argument("--to", type=Path, required=True, help="PNG to write")
    plot.set_defaults(run=run_plot)
    arguments = parser.parse_args()
    arguments.run(arguments)


def run_training(arguments: argparse.Namespace) -> None:
    for name in arguments.backbone or BACKBONES:
        cfg = Config.fromfile(arguments.config)
        cfg.merge_from_dict(arguments.cfg_options)
        cfg.model.backbone = with_type(cfg.model.backbone, name)
        cfg.randomness = {"seed": arguments.seed}
        cfg.visualizer.name = f"{name}-seed{arguments.seed}"  # visualizers are shared by name
        cfg.work_dir = str(arguments.work_dir / f"{name}-seed{arguments.seed}")
        runner = Runner.from_cfg(cfg)
        if arguments.cuda_graphs:
            runner.register_hook(CudaGraphHook(cfg))
        runner.train()
        summary = summarise(Path(runner.log_dir) / "vis_data" / "scalars.json")
        summary |= {"backbone": name, "seed": arguments.seed, "config": arguments.config}
        Path(cfg.work_dir, "summary.json").write_text(json.dumps(summary))


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


def with_type(backbone: dict, name: str) -> dict:
    """The same backbone under another type, ``arch`` spelt out for those who do not know it."""
    backbone = {**backbone, "type": BACKBONES[name]}
    if name != "SwinBackbone":
        backbone.pop("backend", None)
        arch = backbone.pop("arch", None)
        if arch is not None:
            sizes = zip(("embed_dims", "depths", "num_heads"), ARCHITECTURES[arch], strict=True)
            backbone |= dict(sizes)
    return backbone


def summarise(log: Path) -> dict:
    """Loss and mIoU by iteration, seconds an iteration and peak memory of one run's log."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    scores = [record for record in records if "mIoU" in record]
    times = [record["time"] for record in steps if record["iter"] > WARM_UP]
    return {
        "iterations": [record["iter"] for record in steps],
        "loss": [record["loss"] for record in steps],
        "score_iterations": [record["step"] for record in scores],
        "mIoU": [record["mIoU"] for record in scores],
        "seconds_per_iteration": statistics.median(times) if times else None,
        "peak_memory_mib": max((record.get("memory", 0) for record in steps), default=0),
    }


def run_plot(arguments: argparse.Namespace) -> None:
    found = [path for folder in arguments.folders for path in sorted(folder.rglob("summary.json"))]
    if not found:
        raise FileNotFoundError(f"no summary.json under {', '.join(map(str, arguments.folders))}")
    runs = [json.loads(path.read_text()) for path in found]
    print_table(runs)
    draw(runs, arguments.to)


def print_table(runs: list[dict]) -> None:
    table = Table("config", "backbone", "seed", "last mIoU", "best mIoU", "iter/s", "peak MiB")
    for run in runs:
        seconds = run["seconds_per_iteration"]
        table.add_row(
            Path(run["config"]).stem,
            run["backbone"],
            str(run["seed"]),
            f"{run['mIoU'][-1]:.2f}" if run["mIoU"] else "-",
            f"{max(run['mIoU']):.2f}" if run["mIoU"] else "-",
            f"{1 / seconds:.2f}" if seconds else "-",
            f"{run['peak_memory_mib']}",
        )
    Console(width=120).print(table)


def draw(runs: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (losses, scores) = plt.subplots(1, 2, figsize=(12, 4.5))
    colours = dict(zip(BACKBONES, ("tab:blue", "tab:orange"), strict=True))
    for run in runs:
        style = {
            "color": colours[run["backbone"]],
            "linestyle": ["-", "--", ":"][run["seed"] % 3],
            "label": f"{run['backbone']}, seed {run['seed']}",
        }
        losses.plot(run["iterations"], smooth(run["loss"]), linewidth=1, **style)
        scores.plot(run["score_iterations"], run["mIoU"], marker="o", markersize=3, **style)
    losses.set(xlabel="iteration", ylabel="training loss (smoothed)", yscale="log")
    scores.set(xlabel="iteration", ylabel="val mIoU, %")
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(", ".join(sorted({Path(run["config"]).stem for run in runs})))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def smooth(values: list[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, unbiased at the start."""
    smoothed, average, norm = [], 0.0, 0.0
    for value in values:
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        smoothed.append(average / norm)
    return smoothed


if __name__ == "__main__":
    main()
