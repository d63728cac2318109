"""Convolution, batch norm and ReLU of mmcv's ``ConvModule`` as one step, on a GPU.

Stock modules run seven kernels forward and six backward, as four steps of autograd. Here statistics
are read once and the map is normed and clipped in one pass, 1x1 convolutions are products, and in a
prediction the norm goes into the convolution's weight. On a CPU, and where anything is watched or
unusual, the class's own ``forward`` runs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.plain_modules import is_bare, is_plain
from ..ops import compute_dtype, dispatch, triton
from ..ops.torch_internals.module_contents import children
from . import synchronized_norms
from .rewrite import Rewrite, Undo, imported, is_of, own_method, replace_methods


def _stock() -> type | None:
    return imported("mmcv.cnn.bricks.conv_module", "ConvModule")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock()) and module.with_norm


def why_not(module: nn.Module) -> str | None:
    reason = own_method(module, "forward", _stock())
    if reason is not None:
        return reason
    norm, conv = module.norm, module.conv
    if type(norm) is not nn.BatchNorm2d and not synchronized_norms.is_stock(norm):
        return f"{type(norm).__name__} is no BatchNorm2d"
    if type(conv) is not nn.Conv2d or module.with_spectral_norm:
        return f"its convolution is a {type(conv).__name__}, or its weight is computed"
    if module.order != ("conv", "norm", "act"):
        return f"its order is {', '.join(module.order)}"
    if module.with_activation and type(module.activate) is not nn.ReLU:
        return f"its activation is {type(module.activate).__name__}"
    named = isinstance(conv.padding, str)
    if (
        module.with_explicit_padding
        or named
        or conv.padding_mode != "zeros"
        or conv.bias is not None
    ):
        return "its convolution has a bias, or pads with something else than so many zeros"
    return synchronized_norms.why_without(norm)


def _is_bare_norm(norm: nn.Module) -> bool:
    kind = type(norm) if synchronized_norms.is_stock(norm) else nn.BatchNorm2d
    return is_bare(norm, kind)


def apply(module: nn.Module) -> Undo:
    return replace_methods(module, {"forward": forward})


def forward(module: nn.Module, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
    """``ConvModule.forward``, with the same arguments."""
    if not norm or _why_plain(module, x) is not None:
        return type(module).forward(module, x, activate, norm)
    parts = children(module)
    conv, batch_norm = parts["conv"], parts[module.norm_name]
    relu = activate and module.with_activation
    dtype = compute_dtype(x)
    x = x.to(dtype)
    if not batch_norm.training:
        return triton.convolution_norm_op.folded_convolution(x, conv, batch_norm, relu)
    low, group = conv.weight.detach().to(dtype), synchronized_norms.group_of(batch_norm)
    return triton.convolution_norm_op.convolution_norm(x, low, conv, batch_norm, relu, group)


def _why_plain(module: nn.Module, x: Tensor) -> str | None:
    """Why this call is the class's, or ``None`` if it is not."""
    parts = children(module)
    conv, norm, activate = parts["conv"], parts[module.norm_name], parts.get("activate")
    if not (is_bare(conv, nn.Conv2d) and _is_bare_norm(norm)):
        return "a part is watched"
    if torch.compiler.is_compiling() and synchronized_norms.group_of(norm) is not None:
        return "compilers see collectives that are plain operators"
    if activate is not None and not is_bare(activate, nn.ReLU):
        return "a part is watched"
    if not all(map(is_plain, (conv.weight, norm.weight, norm.bias))):
        return "a weight is sharded"
    if norm.training and (x.dim() != 4 or x.shape[0] * x.shape[2] * x.shape[3] < 4):
        return "there are few pixels, or for the class too few"
    if not norm.training and torch.is_grad_enabled():
        return "statistics are constants of a function that is trained"
    return _why_not_here(x, conv.weight, norm)


def _why_not_here(x: Tensor, weight: Tensor, norm: nn.Module) -> str | None:
    if x.dim() != 4:
        return "an image without a batch"
    if not (x.is_cuda and weight.device == x.device == norm.weight.device):
        return "not on one GPU"
    if compute_dtype(x) not in (torch.float32, torch.float16, torch.bfloat16):
        return f"computes in {compute_dtype(x)}"
    if weight.dtype != x.dtype and not torch.is_autocast_enabled("cuda"):
        return "dtypes differ, which is the class's error"
    return dispatch.why_not_maps(x)


REWRITE = Rewrite(
    "batch_norms", "convolution, batch norm and ReLU as one step", finds, why_not, apply
)
