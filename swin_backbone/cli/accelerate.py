"""Say what ``swin_backbone.accelerate`` does to a model of transformers, timm or this project.

    swin-backbone accelerate microsoft/swin-tiny-patch4-window7-224
    swin-backbone accelerate timm:swin_base_patch4_window7_224
    swin-backbone accelerate FOLDER

The model is built from its config with random weights, on the CPU: of a hub's model only the config
is downloaded, of timm's nothing. What runs on a card is decided there, call by call.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..acceleration import accelerate
from ..extras import from_extra
from ..model.backbone import SwinBackbone
from ..model.hub import CONFIG, MODEL_TYPE
from .commands import Parser, command

TIMM = "timm:"


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        __file__, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a folder with config.json, org/name, or timm:name"
    )
    args = parser.parse_args(argv)
    model = build(args.model)
    print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M")
    print(accelerate(model))


def build(name: str) -> nn.Module:
    """A model with random weights.

    Raises:
        ValueError: if there is no model of that name.
        FileNotFoundError: if a folder has no config.
    """
    if name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM))
    if not Path(name).is_dir():
        return _of_transformers(name)
    path = Path(name) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"MODEL is a folder without {CONFIG}: {name!r}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, architecture = config.get("model_type"), config.get("architecture")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is no config: {error}") from None
    if kind == MODEL_TYPE:
        return SwinBackbone.from_pretrained(name)
    return _of_timm(architecture) if architecture and not kind else _of_transformers(name)


def _of_timm(name: str) -> nn.Module:
    with from_extra("benchmark"):
        import timm
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}")
    return timm.create_model(name, pretrained=False)


def _of_transformers(name: str) -> nn.Module:
    with from_extra("benchmark"):
        import transformers
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"MODEL {name!r} is no folder, and not on the hub: {reason}") from None
    named = (getattr(transformers, known, None) for known in config.architectures or ())
    kind = next((found for found in named if found is not None), None)
    return transformers.AutoModel.from_config(config) if kind is None else kind(config)
