"""Train one config in several variants, everything else being equal, and plot them.

    python benchmarks/compare_training.py train CONFIG --work-dir OUT [--seed N ...]
        [--with OPTION ...] [--variant NAME [KEY=VALUE ...]] ... [--same-start | --start-of NAME]
        [--cfg-options KEY=VALUE ...]
    python benchmarks/compare_training.py plot OUT_OR_CSV [...] --to curves.png [--csv curves.csv]

A variant is a name and what it changes in the config. ``SwinBackbone`` and ``SwinTransformer``
(mmseg's, or mmdet's for a detector) need no changes written out, and are the default; nor does
``accelerated``, which is what tools/train.py trains with ``--with fast`` (add ``--with amp_bf16``
for the others to compute in the same precision). Two attention backends are compared with

    --variant triton model.backbone.backend=triton
    --variant reference model.backbone.backend=reference

``train`` runs the variants one after the other, seed by seed, each in ``OUT/NAME-seed<N>``.
``plot`` draws loss and mIoU (a detector's box and mask AP) of all runs found, finished or not, and
prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from benchmarking.detectors import pytorch_ops
from benchmarking.results import describe_device, now
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import set_random_seed
from training_curves import AXES, DESCRIPTION, draw, find_runs, print_means, print_table, write_csv

import swin_backbone  # noqa: F401  (registers SwinBackbone)
from swin_backbone.atomic_files import write_text
from swin_backbone.cli.argument_types import number, picture
from swin_backbone.cli.argument_types import seed as seed_type
from swin_backbone.cli.commands import Parser, command
from swin_backbone.cli.config_options import add_config_options
from swin_backbone.cli.launching import add_options, apply_options, build_runner
from swin_backbone.model.arguments import ARCHITECTURES
from swin_backbone.openmmlab.cuda_graph_hook import CudaGraphHook
from swin_backbone.openmmlab.mmengine_configs import change_config, read_config
from swin_backbone.openmmlab.whole_models import build_whole_model, kind_of

#: Variants that are known by name; what they change in the config. ``{scope}`` is the config's.
VARIANTS = {
    "SwinBackbone": {"model.backbone.type": "SwinBackbone"},
    "SwinTransformer": {"model.backbone.type": "{scope}.SwinTransformer"},
    "accelerated": {"model.backbone.type": "SwinBackbone"},
}
#: Of these variants, the options that stand in configs/_base_/options.
OPTIONS_OF = {"accelerated": ("fast",)}
DEFAULT = {name: VARIANTS[name] for name in ("SwinBackbone", "SwinTransformer")}


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
    train.add_argument("config")
    train.add_argument("--work-dir", type=Path, required=True)
    train.add_argument(
        "--variant",
        dest="variants",
        nargs="+",
        action=VariantAction,
        metavar=("NAME", "KEY=VALUE"),
        help=f"a variant to train; default: {' and '.join(DEFAULT)}",
    )
    train.add_argument(
        "--seed",
        dest="seeds",
        type=seed_type,
        nargs="+",
        default=[0],
        help="one or more; default: 0",
    )
    train.add_argument(
        "--same-start",
        action="store_true",
        help="let all variants of a seed begin with the weights that the first one draws, which "
        "must be in a layout that the others read, as mmseg's is for SwinBackbone",
    )
    train.add_argument(
        "--start-of",
        choices=list(VARIANTS),
        help="as --same-start, with the weights that this variant draws, which need not be among "
        "those trained: so runs of several processes begin with the same",
    )
    train.add_argument(
        "--pytorch-ops",
        action="store_true",
        help="let variants of a detector that are not accelerated attend by mmcv's PyTorch "
        "implementation and suppress boxes by torchvision, and by no kernel of this package",
    )
    train.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="replay training steps and predictions as CUDA graphs, so that the GPU and not the "
        "launching of kernels sets the pace; the log says where a variant's cannot be captured",
    )
    train.add_argument(
        "--channels-last",
        action="store_true",
        help="keep convolutions' weights in the memory layout that the GPU computes in",
    )
    add_options(train)
    add_config_options(train)
    train.set_defaults(run=run_training)
    plot = commands.add_parser("plot", help="draw the curves of runs")
    plot.add_argument("folders", type=Path, nargs="+", help="of runs, or files that --csv wrote")
    plot.add_argument("--to", type=picture, required=True, help="PNG to write")
    plot.add_argument(
        "--over",
        choices=list(AXES),
        default="iterations",
        help="seconds: of training, with waiting for data and compiling, without evaluations; "
        "warm-seconds: without what the first iterations took longer than later ones, too",
    )
    plot.add_argument(
        "--smoothing",
        type=number(0, 0.999),
        default=0.9,
        help="weight of the past in the losses, [0, 1)",
    )
    plot.add_argument("--csv", type=Path, help="write the curves' points as well")
    plot.set_defaults(run=run_plot)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


def run_training(arguments: argparse.Namespace) -> None:
    variants = arguments.variants or DEFAULT
    for seed in arguments.seeds:
        start = SameStartHook(arguments.start_of or next(iter(variants)))
        if arguments.start_of:
            drawing = make_config(arguments, start.first, VARIANTS[start.first], seed)
            start.weights = drawn_weights(drawing, seed)
        for name, changes in variants.items():
            cfg = make_config(arguments, name, changes, seed)
            train_variant(arguments, cfg, start, {"variant": name, "seed": seed})


def train_variant(arguments: argparse.Namespace, cfg: Config, start: Hook, about: dict) -> None:
    """One run, described in its work dir; at its end with the seconds that it took in all."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    about |= {"config": arguments.config, "date": now(), "device": describe_device(device)}
    about |= {"torch": torch.__version__}
    description = Path(cfg.work_dir, DESCRIPTION)
    write_text(description, json.dumps(about))
    began = time.perf_counter()
    runner = build_runner(cfg)
    if arguments.same_start or arguments.start_of:
        start.variant = about["variant"]
        runner.register_hook(start)
    if arguments.channels_last:
        runner.register_hook(ChannelsLastHook())
    if arguments.cuda_graphs:
        runner.register_hook(CudaGraphHook())
    stock = arguments.pytorch_ops and about["variant"] not in OPTIONS_OF
    with pytorch_ops() if stock else nullcontext():
        runner.train()
    write_text(description, json.dumps({**about, "run_seconds": time.perf_counter() - began}))
    del runner
    gc.collect()  # runners refer to themselves, and the next run's peak of memory is its own
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def make_config(arguments: argparse.Namespace, name: str, changes: dict, seed: int) -> Config:
    """The config of one variant."""
    cfg = read_config(arguments.config)
    kind_of(cfg, f"config {arguments.config!r}")
    apply_options(cfg, (*arguments.options, *OPTIONS_OF.get(name, ())))
    change_config(cfg, arguments.cfg_options)
    change_config(cfg, changes)
    cfg.model.backbone.type = cfg.model.backbone.type.format(scope=cfg.default_scope)
    cfg.model.backbone = spell_out_arch(cfg.model.backbone)
    cfg.randomness = {"seed": seed}
    if cfg.get("visualizer"):  # mmengine's default one has a name of its own in each run
        cfg.visualizer.name = f"{name}-seed{seed}"  # visualizers are shared by name
    cfg.work_dir = str(arguments.work_dir / f"{name}-seed{seed}")
    log_all_time(cfg)
    # Writing the config out prettily takes seconds.
    return Config(cfg.to_dict(), format_python_code=False)


def log_all_time(cfg: Config) -> None:
    """Let each logged time be a mean of all iterations since the one logged before.

    mmengine takes that of the last ten, whatever the interval; sums of it leave out, or count
    several times, what the others took.
    """
    logger = cfg.get("default_hooks", {}).get("logger") or {}
    cfg.log_processor = cfg.get("log_processor") or {"by_epoch": False}
    cfg.log_processor.window_size = logger.get("interval", 10)


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


def drawn_weights(cfg: Config, seed: int) -> dict[str, torch.Tensor]:
    """What a config's model draws for a seed, on the CPU."""
    set_random_seed(seed)
    model = build_whole_model(cfg)
    model.init_weights()
    return model.state_dict()


class SameStartHook(Hook):
    """Let runs begin with the weights that the first of them has drawn.

    Args:
        first: the variant whose weights they are.

    Attributes:
        variant: of the run that is about to begin.
    """

    priority = "VERY_HIGH"  # before anything reads weights

    def __init__(self, first: str):
        self.first = self.variant = first
        self.weights = None

    def before_train(self, runner) -> None:
        """Keep the weights, or load those that were kept.

        Raises:
            ValueError: if this variant's model does not take them.
        """
        if self.weights is None:
            tensors = runner.model.state_dict().items()
            self.weights = {name: tensor.to("cpu", copy=True) for name, tensor in tensors}
            return
        try:
            runner.model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise ValueError(
                f"same start: {self.variant} does not take the weights of {self.first}: {error}"
            ) from error


class ChannelsLastHook(Hook):
    """Lay out the weights of convolutions as (out, rows, columns, in) in memory."""

    priority = "HIGH"  # before graphs are captured

    def before_train(self, runner) -> None:
        """Change the layout; values and shapes stay."""
        runner.model.to(memory_format=torch.channels_last)


def run_plot(arguments: argparse.Namespace) -> None:
    runs = [run for folder in arguments.folders for run in find_runs(folder)]
    if not runs:
        raise FileNotFoundError(f"no run under {', '.join(map(str, arguments.folders))}")
    print_table(runs)
    print_means(runs)
    if arguments.csv:
        write_csv(runs, arguments.csv)
    draw(runs, arguments.to, arguments.smoothing, arguments.over)


if __name__ == "__main__":
    sys.exit(main())
