"""The part of a model that its Swin Transformer is, replayed as CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..framework import framework
from ..graphs import graph_backbone
from ..model.backbone import SwinBackbone
from .acceleration_report import Row
from .rewrite import Undo
from .swin import REWRITES

#: Its switch in :func:`swin_backbone.accelerate`, which is off unless it is asked for.
NAME = "graphs"
WHAT = "CUDA graphs, while it is on a GPU, of sizes that come again"


def apply_graphs(model: nn.Module) -> tuple[list[Row], list[Undo]]:
    """Graph backbone and neck of each of OpenMMLab's models that are found in ``model``; where
    there is none, the smallest module that holds all that is known of Swin Transformers."""
    rows, undos = [], []
    for name in _encoders(model):
        module = model.get_submodule(name)
        kind = type(module).__name__
        try:
            undos.append(graph_backbone(module, say=framework().log).revert)
        except ValueError as error:
            rows.append(Row(NAME, (name,), kind, reason=str(error)))
        else:
            rows.append(Row(NAME, (name,), kind, WHAT))
    return rows, undos


def _encoders(model: nn.Module) -> list[str]:
    """Names of the modules to graph, none of which lies in another."""
    found: list[str] = []
    for name, module in model.named_modules():
        holds = callable(getattr(module, "extract_feat", None)) and hasattr(module, "backbone")
        if holds and not any(_is_in(name, other) for other in found):
            found.append(name)
    if found:
        return found
    known = [
        name
        for name, module in model.named_modules()
        if isinstance(module, SwinBackbone) or any(rewrite.finds(module) for rewrite in REWRITES)
    ]
    return [_holder(known)] if known else []


def _is_in(name: str, other: str) -> bool:
    return other == "" or name.startswith(f"{other}.")


def _holder(names: Sequence[str]) -> str:
    """The smallest module that is, or holds, all of these."""
    parts = [name.split(".") if name else [] for name in names]
    common: list[str] = []
    for steps in zip(*parts, strict=False):
        if len(set(steps)) > 1:
            break
        common.append(steps[0])
    return ".".join(common)
