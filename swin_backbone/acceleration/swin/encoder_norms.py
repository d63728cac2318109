"""Layer norms around the blocks of all libraries, on a GPU: of patches, of maps, of merged patches.

Under autocast torch casts a map to float32 before it norms it, in a pass of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...model.plain_modules import norm_parameters
from ...ops import layer_norm
from ...ops.torch_internals.module_contents import children
from ..rewrite import Rewrite, Undo, all_of, replace_methods
from . import patch_embeddings, patch_mergings
from .block_rewrite import NAME
from .on_gpu import on_gpu
from .same_results import why_sharded

#: Names of classes that own norms, but not of blocks, which have their own way.
_OWNERS = re.compile(r"Swin|PatchEmbed|PatchMerging")
_BLOCKS = re.compile(r"Block|Layer$|Attention|Mlp|MLP")


def finds(module: nn.Module) -> bool:
    kind = type(module)
    if kind.__module__.startswith("swin_backbone.") or patch_mergings.finds(module):
        return False
    known = _OWNERS.search(kind.__name__) and not _BLOCKS.search(kind.__name__)
    return bool(known or patch_embeddings.finds(module)) and any(_norms(module))


def _norms(module: nn.Module) -> Iterator[nn.LayerNorm]:
    """Those of a module itself, and of a list or dictionary of them."""
    for child in children(module).values():
        inside = [child]
        if type(child) in (nn.ModuleDict, nn.ModuleList):
            inside = list(children(child).values())
        for norm in inside:
            if type(norm) is nn.LayerNorm:
                yield norm


def why_not(module: nn.Module) -> str | None:
    for norm in _norms(module):
        reason = why_sharded(norm)
        if reason is not None:
            return reason
        if norm_parameters(norm) is None:
            return "a norm has no weights, or is watched"
    return None


def apply(module: nn.Module) -> Undo:
    undos = [replace_methods(norm, {"forward": forward}) for norm in _norms(module)]
    return all_of(undos)


def forward(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """``LayerNorm.forward``: (..., C)."""
    usual = type(x) is Tensor and on_gpu(x) and x.numel() and not torch.jit.is_tracing()
    plain = type(norm.weight) is nn.Parameter and type(norm.bias) is nn.Parameter
    same = x.dtype == norm.weight.dtype or torch.is_autocast_enabled(x.device.type)
    if not (usual and plain and same) or torch.compiler.is_compiling():
        return type(norm).forward(norm, x)
    return layer_norm(x, norm.weight, norm.bias, norm.eps)


REWRITE = Rewrite(NAME, "layer norms in one pass, on a GPU", finds, why_not, apply)
