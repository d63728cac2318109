"""Compile the kernels that training a config takes, into Triton's cache on disk.

    swin-backbone compile-kernels CONFIG [--with fast] [--batch 16] [--size 512 512]

For images of containers, and before many jobs begin: a run that finds its kernels compiled does
not wait for them in its first steps. It takes a card like the one that will train, and the same
versions of this package, PyTorch and Triton. The cache lies where TRITON_CACHE_DIR says, or in
~/.triton. The model has random weights and sees random images.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from ..acceleration import accelerate
from ..acceleration.compile_ahead import compile_kernels
from ..openmmlab.mmengine_configs import read_config
from ..openmmlab.random_batches import random_batch
from ..openmmlab.whole_models import build_whole_model, kind_of
from .argument_types import config as config_type
from .argument_types import positive
from .benchmark import SIZE, crop_of
from .commands import Parser, command
from .config_options import add_config_options
from .launching import add_options, apply_options

#: Precisions by what mmengine calls them.
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, None: torch.float16}


@command
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    cfg = read_config(arguments.config, arguments.cfg_options)
    kind = kind_of(cfg, f"config {arguments.config!r}")
    apply_options(cfg, arguments.options)
    if not torch.cuda.is_available():
        raise ValueError("kernels are compiled for the GPU at hand, and PyTorch sees none")
    model = build_whole_model(cfg, for_training=True).cuda()
    if uses_hook(cfg, "AccelerateHook"):
        accelerate(model)
    size = tuple(arguments.size or crop_of(cfg) or SIZE[kind])
    batch = arguments.batch or cfg.get("train_dataloader", {}).get("batch_size") or 2
    data = random_batch(model, batch, size, "cuda")
    for phase, run in (("training", train(model, data, cfg)), ("prediction", predict(model, data))):
        compiled = compile_kernels(model, run, arguments.threads)
        print(f"{phase}: {compiled.kernels} kernels in {compiled.seconds:.1f} s")
    folder = os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache"
    print(f"compiled for {torch.cuda.get_device_name()}, kept in {folder}")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, description=__doc__.split("\n")[0])
    parser.add_argument("config", type=config_type, help="a config, or its name")
    parser.add_argument("--batch", type=positive, help="images at a time; default: the config's")
    parser.add_argument(
        "--size", type=positive, nargs=2, metavar=("H", "W"), help="default: the config's crop"
    )
    parser.add_argument("--threads", type=positive, help="default: one for each core")
    add_options(parser)
    add_config_options(parser)
    return parser.parse_args(argv)


def uses_hook(cfg: Config, name: str) -> bool:
    """Whether a config's run has a hook of that type."""
    hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or [])]
    return any(hook is not None and hook.get("type") == name for hook in hooks)


def train(model: nn.Module, data: dict, cfg: Config) -> Callable[[], None]:
    """Forward, losses and backward in the precision of the config's optimizer wrapper."""
    wrapper = cfg.get("optim_wrapper") or {}
    dtype = DTYPES.get(wrapper.get("dtype"), torch.float32)
    is_mixed = wrapper.get("type") == "AmpOptimWrapper" and dtype != torch.float32

    def run() -> None:
        model.train()
        with torch.autocast("cuda", dtype, enabled=is_mixed):
            losses = model(**data, mode="loss")
        model.parse_losses(losses)[0].backward()

    return run


def predict(model: nn.Module, data: dict) -> Callable[[], None]:
    """Class maps, or detections, in float32, as a run evaluates."""

    def run() -> None:
        model.eval()
        with torch.no_grad():
            model(data["inputs"], [s.clone() for s in data["data_samples"]], mode="predict")

    return run
