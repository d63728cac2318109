"""torch's ``SyncBatchNorm`` without its wait for the GPU, in training by several processes.

The class asks the GPU which processes have pixels, once for each norm: the host, which is ahead of
it in a forward pass, starts anew behind it. Where the norm belongs to mmcv's ``ConvModule``, it is
part of one step (:mod:`.mmcv_convolutions`).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..model.plain_modules import is_plain
from ..ops import dispatch, triton
from ..ops.torch_internals.module_contents import STANDS_FOR
from .rewrite import Rewrite, Undo, imported, own_method, replace_methods


def is_stock(norm: nn.Module) -> bool:
    """Whether this is torch's ``SyncBatchNorm``, which mmengine gives another class of the same."""
    mmengine = imported("mmengine.utils.dl_utils.parrots_wrapper", "SyncBatchNorm")
    kind = type(norm)
    return kind is nn.SyncBatchNorm or (
        kind is mmengine and kind.forward is nn.SyncBatchNorm.forward
    )


def group_of(norm: nn.Module) -> dist.ProcessGroup | None:
    """The processes whose statistics a norm takes in training; ``None`` for this one alone."""
    alone = not (norm.training and isinstance(norm, nn.SyncBatchNorm) and dist.is_available())
    if alone or not dist.is_initialized():
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def finds(module: nn.Module) -> bool:
    return isinstance(module, nn.SyncBatchNorm)


def why_not(norm: nn.Module) -> str | None:
    if not is_stock(norm):
        return f"{type(norm).__name__} may check or compute something else"
    return own_method(norm, "forward", nn.SyncBatchNorm) or why_without(norm)


def why_without(norm: nn.Module) -> str | None:
    """What kernels need and a batch norm does without, or ``None``."""
    if not (norm.affine and norm.track_running_stats) or norm.momentum is None:
        return "its norm has no weight, no running statistics or no momentum"
    return None


def apply(norm: nn.Module) -> Undo:
    return replace_methods(norm, {"forward": forward})


def forward(norm: nn.Module, x: Tensor) -> Tensor:
    """``SyncBatchNorm.forward``."""
    group = group_of(norm)
    if group is None or _why_not_here(norm, x) is not None:
        return type(norm).forward(norm, x)
    return triton.synchronized_norm_op.synchronized_norm(x, norm, group)


setattr(forward, STANDS_FOR, nn.SyncBatchNorm.forward)  # and nobody watches the module


def _why_not_here(norm: nn.Module, x: Tensor) -> str | None:
    """Why this call is the class's, or ``None`` if it is not. Processes need not agree."""
    if torch.compiler.is_compiling():
        return "compilers see collectives that are plain operators"
    if x.dim() != 4:
        return "no map of images"
    if norm.weight.device != x.device:
        return "on two devices, which is the class's error"
    if not (is_plain(norm.weight) and is_plain(norm.bias)):
        return "a weight is sharded"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"computes in {x.dtype}"
    return dispatch.why_not_maps(x) if len(x) else dispatch.why_not_triton(x)


REWRITE = Rewrite(
    "synchronized_norms", "statistics of all processes without a wait", finds, why_not, apply
)
