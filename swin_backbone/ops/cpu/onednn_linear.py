"""Linear layers by oneDNN, whose float32 kernels are faster than those behind ``F.linear``.

oneDNN also adds bias and residual and applies GELU while the result is in registers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..double_backward import plain_gradients
from ..layer_parameters import LinearParameters, NormParameters, compute_dtype, plain_layer_norm
from ..linear import broadcast_scale
from ..torch_internals.cpu_operators import has_onednn_linear, onednn_linear, onednn_linear_add


def norm_linear(
    x: Tensor, norm: NormParameters, layer: LinearParameters, gelu: bool = False
) -> Tensor:
    """``linear(norm(x))``, and GELU if asked for, in the compute dtype.

    Args:
        x: (..., inputs).
        norm: over the inputs.
        layer: inputs to outputs.
        gelu: whether to apply GELU.
    """
    dtype = compute_dtype(x)
    normed = plain_layer_norm(x, *norm).to(dtype)
    weight, bias = _cast(layer, dtype)
    if gelu and _runs_on_onednn(dtype) and not torch.is_grad_enabled():
        return onednn_linear(normed, weight, bias, gelu=True)
    out = linear(normed, weight, bias)
    if gelu:
        return F.gelu(out) if torch.is_grad_enabled() else torch.ops.aten.gelu_(out)
    return out


def linear_add(
    x: Tensor, layer: LinearParameters, residual: Tensor, path_scale: Tensor | None = None
) -> Tensor:
    """``residual + path_scale * linear(x)``, in the dtype of the residual.

    Args:
        x: (B, H, W, inputs), in the compute dtype.
        layer: inputs to outputs.
        residual: (B, H, W, outputs).
        path_scale: (B,) factor of each image; ``None`` for 1.
    """
    weight, bias = _cast(layer, x.dtype)
    fuses = residual.dtype == x.dtype and path_scale is None and not torch.is_grad_enabled()
    if fuses and _runs_on_onednn(x.dtype):
        return onednn_linear_add(x, residual, weight, bias)
    # Sums of two dtypes are slow, as is memory that is touched for the first time.
    branch = linear(x, weight, bias).to(residual.dtype)
    if path_scale is not None:
        return torch.addcmul(residual, branch, broadcast_scale(path_scale, residual))
    return residual + branch if torch.is_grad_enabled() else branch.add_(residual)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of tensors that have one dtype."""
    if not _runs_on_onednn(x.dtype):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def _cast(layer: LinearParameters, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype)


def _runs_on_onednn(dtype: torch.dtype) -> bool:
    return torch.backends.mkldnn.enabled and has_onednn_linear(dtype)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        if torch.is_grad_enabled():
            bias = rows.sum(0) if need_bias else None
            return *plain_gradients(F.linear, (x, weight), gradient), bias
        return (
            onednn_linear(gradient, weight.t(), None) if need_x else None,
            rows.t() @ x.reshape(-1, x.shape[-1]) if need_weight else None,
            rows.sum(0) if need_bias else None,
        )
