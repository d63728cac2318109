"""The part of a model that its Swin Transformer is, replayed as CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..framework import framework
from ..graphs import graph_backbone
from ..model.backbone import SwinBackbone
from .acceleration_report import Row
from .rewrite import Undo, imported, own_method
from .swin import REWRITES

#: Its switch in :func:`swin_backbone.accelerate`, which is off unless it is asked for.
NAME = "graphs"
WHAT = "CUDA graphs, while it is on a GPU, of sizes that come again"
WHAT_OF_HEADS = "computed with the maps that it is called with, in their graph"
#: Heads of mmdet that are convolutions of each map, by the module and name of their classes.
HEADS = (
    ("mmdet.models.dense_heads.rpn_head", "RPNHead"),
    ("mmdet.models.dense_heads.retina_head", "RetinaHead"),
)


def apply_graphs(model: nn.Module) -> tuple[list[Row], list[Undo]]:
    """Graph backbone and neck of each of OpenMMLab's models that are found in ``model``, with their
    dense heads; where there is none, the smallest module that holds all that is known of Swin
    Transformers."""
    rows, undos = [], []
    for name in _encoders(model):
        module = model.get_submodule(name)
        kind = type(module).__name__
        head = dense_head(module)
        try:
            undos.append(graph_backbone(module, say=framework().log, head=head).revert)
        except ValueError as error:
            rows.append(Row(NAME, (name,), kind, reason=str(error)))
            continue
        rows.append(Row(NAME, (name,), kind, WHAT))
        if head is not None:
            names = (f"{name}.{head}" if name else head,)
            kind = type(module.get_submodule(head)).__name__
            rows.append(Row(NAME, names, kind, WHAT_OF_HEADS))
    return rows, undos


def dense_head(model: nn.Module) -> str | None:
    """Name of a detector's head that can be captured with the maps it is called with."""
    name = "rpn_head" if getattr(model, "rpn_head", None) is not None else "bbox_head"
    head = dict(model.named_children()).get(name)
    if head is None or not callable(getattr(model, "extract_feat", None)):
        return None
    stocks = (imported(*names) for names in HEADS)
    found = [stock for stock in stocks if stock is not None and isinstance(head, stock)]
    methods = [(method, stock) for stock in found for method in ("forward", "forward_single")]
    if not found or any(own_method(head, *one) is not None for one in methods):
        return None
    return name


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
