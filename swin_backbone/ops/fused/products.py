"""Products with what stands beside them: their launches, and gradients of weights."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
import triton
from packaging.version import Version
from torch import Tensor

from ..kernels.products import linear, norm_linear
from .launch import Launch, empty, precision, split
from .norm import normalise
from .tuning import Work, config, tuned

#: Up to this many channels, a token's rows stay on chip across products; beyond, each product and
#: what it cannot take in is a pass of its own.
CHANNELS_ON_CHIP = 256
#: Blocks of rows whose programs run side by side, so that they find weights in the L2 cache.
GROUP = 8
#: Whether products of 16 bit matrices can be written in float32.
HAS_WIDE_PRODUCT = Version(torch.__version__).release >= (2, 8)


def rows_of(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


@lru_cache(maxsize=1024)
def _norm_linear_launch(rows, channels, outputs, eps, has_bias, dtype, precision) -> Launch:
    chosen = config("norm_linear", channels, rows, dtype)
    left, right = split(channels)
    constants = {"C": channels, "N": outputs, "LEFT": left, "RIGHT": right}
    constants |= {"ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"HAS_BIAS": has_bias, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows),)
    return Launch(norm_linear, grid, (rows, eps), constants, chosen.options)


def _norm_linear_work(x, gamma, beta, eps, weight, bias) -> Work | None:
    channels = x.shape[-1]
    if channels > CHANNELS_ON_CHIP:
        return None
    return Work("norm_linear", channels, rows_of(x), weight.dtype)


@tuned(_norm_linear_launch.cache_clear, _norm_linear_work)
def multiply_normed(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """``norm(x) @ weight^T + bias`` in the dtype of ``weight``."""
    channels, outputs = x.shape[-1], weight.shape[0]
    if channels > CHANNELS_ON_CHIP:
        return F.linear(normalise(x, gamma, beta, eps, False, weight.dtype), weight, bias)
    out = empty(x, *x.shape[:-1], outputs, dtype=weight.dtype)
    launch = _norm_linear_launch(
        rows_of(x), channels, outputs, eps, bias is not None, weight.dtype,
        precision(weight.dtype),
    )  # fmt: skip
    launch(x, gamma, beta, weight, weight if bias is None else bias, out)
    return out


@lru_cache(maxsize=1024)
def _linear_launch(rows, images, inputs, outputs, gelu, has_keep, dtype, precision) -> Launch:
    chosen = config("linear", outputs, rows, dtype)
    constants = {"K": inputs, "N": outputs, "ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"DEPTH": chosen.depth, "GROUP": GROUP, "GELU": gelu, "RESIDUAL": not gelu}
    constants |= {"HAS_KEEP": has_keep, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows) * triton.cdiv(outputs, chosen.columns),)
    return Launch(linear, grid, (rows, rows // images), constants, chosen.options)


def _linear_work(a, weight, *others) -> Work:
    return Work("linear", weight.shape[0], rows_of(a), a.dtype)


@tuned(_linear_launch.cache_clear, _linear_work)
def multiply(
    a: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """``residual + keep * (a @ weight^T + bias)``, or ``gelu(a @ weight^T + bias)`` without."""
    outputs, inputs = weight.shape
    gelu = residual is None
    out = empty(a, *a.shape[:-1], outputs, dtype=a.dtype if gelu else residual.dtype)
    launch = _linear_launch(
        rows_of(a), a.shape[0], inputs, outputs, gelu, keep is not None, a.dtype,
        precision(a.dtype),
    )  # fmt: skip
    launch(a, weight, bias, a if gelu else residual, a if keep is None else keep, out)
    return out


def weight_gradient(grad_out: Tensor, a: Tensor) -> Tensor:
    """``grad_out^T @ a``: (outputs, inputs), float32."""
    left, right = grad_out.flatten(0, -2).t(), a.flatten(0, -2)
    if HAS_WIDE_PRODUCT and left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()


def like_parameters(grads, parameters):
    """Gradients in their parameters' dtypes; ``None`` for parameters that there are not."""
    pairs = zip(grads, parameters, strict=True)
    return [None if parameter is None else grad.to(parameter.dtype) for grad, parameter in pairs]
