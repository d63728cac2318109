"""The part of a model that its Swin Transformer is, replayed as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

from torch import Tensor, nn

from ..framework import framework
from ..graphs import gathers_as_one, graph_backbone
from ..model.backbone import SwinBackbone
from . import mmdet_feature_sizes, mmdet_graphed_decoder, mmdet_positional_encodings
from .acceleration_report import Row
from .rewrite import Undo, imported, own_method
from .swin import REWRITES

#: Its switch in :func:`swin_backbone.accelerate`, which is off unless it is asked for.
NAME = "graphs"
WHAT = "CUDA graphs, while it is on a GPU, of sizes that come again"
WHAT_OF_HEADS = "computed with the maps that it is called with, in their graph"
WHAT_OF_LAYERS = "all layers as CUDA graphs, of sizes that come again"
#: Names of heads that are called with all maps of a model.
NAMES = ("rpn_head", "bbox_head", "panoptic_head", "decode_head")


def _samples(maps: Sequence[Tensor]) -> tuple:
    """Data samples of a batch: of Mask2Former's head, which reads how many there are."""
    return ([SimpleNamespace(metainfo={}) for _ in range(len(maps[0]))],)


class Head(NamedTuple):
    """A class of heads whose results follow from the maps that they are called with.

    Attributes:
        module, name: of the class.
        methods: by which it computes them.
        stand_ins: for its further arguments.
    """

    module: str
    name: str
    methods: Sequence[str]
    stand_ins: Callable[[Sequence[Tensor]], tuple] | None = None


HEADS = (
    Head("mmdet.models.dense_heads.rpn_head", "RPNHead", ("forward", "forward_single")),
    Head("mmdet.models.dense_heads.retina_head", "RetinaHead", ("forward", "forward_single")),
    Head("mmdet.models.dense_heads.mask2former_head", "Mask2FormerHead", ("forward",), _samples),
)
#: Code of methods that are rewritten, and compute the same; they are copied under other names.
OURS = {mmdet_positional_encodings.head_forward.__code__}


def apply_graphs(model: nn.Module) -> tuple[list[Row], list[Undo]]:
    """Graph backbone and neck of each of OpenMMLab's models that are found in ``model``, with their
    dense heads; where there is none, the smallest module that holds all that is known of Swin
    Transformers."""
    rows, undos = [], []

    def graph(name: str, make: Callable[..., Undo], what: str) -> bool:
        kind, reason = type(model.get_submodule(name)).__name__, ""
        try:
            undos.append(make(say=framework().log))
        except ValueError as error:
            what, reason = "", str(error)
        rows.append(Row(NAME, (name,), kind, what, reason))
        return not reason

    for name in _encoders(model):
        module = model.get_submodule(name)
        head, stand_ins = dense_head(module) or (None, None)
        make = partial(_graphed, graph_backbone, module, head=head, stand_ins=stand_ins)
        if graph(name, make, WHAT) and head is not None:
            kind = type(module.get_submodule(head)).__name__
            rows.append(Row(NAME, (_child(name, head),), kind, WHAT_OF_HEADS))
    for name, module in model.named_modules():
        own = module.__dict__
        if mmdet_feature_sizes.LAYERS in own and mmdet_graphed_decoder.KNOWN not in own:
            graph(name, partial(_graphed, graph_layers, module), WHAT_OF_LAYERS)
    for name, module in model.named_modules():
        if mmdet_graphed_decoder.finds(module):
            make = partial(mmdet_graphed_decoder.apply, module)
            graph(_child(name, "decoder"), make, mmdet_graphed_decoder.WHAT)
    return rows, undos


def _graphed(graph: Callable, module: nn.Module, **options) -> Undo:
    return graph(module, **options).revert


def _child(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


#: Graphs of a rewritten encoder of Deformable DETR and its kin, whose points are computed outside.
graph_layers = partial(graph_backbone, method=mmdet_feature_sizes.LAYERS)


def dense_head(model: nn.Module) -> tuple[str, Callable | None] | None:
    """Name of a model's head that can be captured with the maps it is called with, and what stands
    for its further arguments."""
    if not callable(getattr(model, "extract_feat", None)):
        return None
    children = dict(model.named_children())
    name = next((name for name in NAMES if children.get(name) is not None), None)
    for head in HEADS if name is not None else ():
        stock = imported(head.module, head.name)
        if stock is not None and isinstance(children[name], stock):
            reasons = (_own_method(children[name], method, stock) for method in head.methods)
            return None if any(reasons) else (name, head.stand_ins)
    return None


def _own_method(head: nn.Module, name: str, stock: type) -> str | None:
    if getattr(head.__dict__.get(name), "__code__", None) in OURS:
        return None
    return own_method(head, name, stock)


def _encoders(model: nn.Module) -> list[str]:
    """Names of the modules to graph, none of which lies in another; of a model that is spread over
    processes its backbones, where these are gathered as one."""
    modules = model.named_modules()
    found = [name for name, m in modules if isinstance(m, SwinBackbone) and gathers_as_one(m)]
    if found:
        return found
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
