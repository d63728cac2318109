"""The perceptron half of a block as an operator of torch.

Nothing but its input is kept for the backward pass: norm and hidden layer are computed anew.

A parameter comes twice: as it is, for its gradient, and in the dtype in which products are computed
(``low``), for its values.
"""

from functools import lru_cache
from math import gcd
from typing import List, Optional  # noqa: UP035

import torch
import triton
from torch import Tensor

from ..kernels.products import gelu_products, mlp_forward
from .launch import Launch, empty, precision, split
from .norm import norm_gradients, normalise, scale_and_sum
from .operator import Differentiable, register
from .products import (
    CHANNELS_ON_CHIP,
    GROUP,
    like_parameters,
    multiply,
    rows_of,
    weight_gradient,
)
from .tuning import Work, config, tuned

_Maybe = Optional[Tensor]  # noqa: UP045


@lru_cache(maxsize=1024)
def _mlp_launch(rows, images, channels, hidden, eps, has_keep, dtype, precision) -> Launch:
    chosen = config("mlp_forward", channels, rows, dtype)
    left, right = split(channels)
    constants = {"C": channels, "N": hidden, "LEFT": left, "RIGHT": right}
    constants |= {"ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"HAS_KEEP": has_keep, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows),)
    return Launch(mlp_forward, grid, (rows, rows // images, eps), constants, chosen.options)


def _mlp_work(x, *others) -> Work | None:
    low_up, channels = others[7], x.shape[-1]
    if channels > CHANNELS_ON_CHIP:
        return None
    return Work("mlp_forward", channels, rows_of(x), low_up.dtype)


@tuned(_mlp_launch.cache_clear, _mlp_work)
def _mlp_forward(
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    low_up: Tensor,
    low_down: Tensor,
    eps: float,
) -> Tensor:
    """``x + keep * down(gelu(up(norm(x))))``.

    Args:
        x: (B, H, W, C), contiguous.
        keep: (B,) factor of each image's branch; ``None`` for 1.

    Returns:
        (B, H, W, C) in the dtype of ``x``.
    """
    hidden, channels = low_up.shape
    if channels > CHANNELS_ON_CHIP:
        normed = normalise(x, norm_weight, norm_bias, eps, False, low_up.dtype)
        return multiply(multiply(normed, low_up, up_bias), low_down, down_bias, x, keep)
    out = torch.empty_like(x)
    launch = _mlp_launch(
        rows_of(x), x.shape[0], channels, hidden, eps, keep is not None,
        low_up.dtype, precision(low_up.dtype),
    )  # fmt: skip
    launch(
        x, norm_weight, norm_bias, low_up, up_bias, low_down, down_bias,
        x if keep is None else keep, out,
    )  # fmt: skip
    return out


@lru_cache(maxsize=1024)
def _gelu_products_launch(rows, channels, hidden, dtype, precision) -> Launch:
    chosen = config("gelu_products", channels, rows, dtype)
    constants = {"C": channels, "N": hidden, "ROWS": chosen.rows, "COLUMNS": chosen.columns}
    depth = gcd(channels, chosen.depth)
    constants |= {"DEPTH": depth, "GROUP": GROUP, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows) * (hidden // chosen.columns),)
    return Launch(gelu_products, grid, (rows,), constants, chosen.options)


def _gelu_products_work(normed, *others) -> Work:
    return Work("gelu_products", normed.shape[-1], rows_of(normed), normed.dtype)


@tuned(_gelu_products_launch.cache_clear, _gelu_products_work)
def _hidden_gradients(
    normed: Tensor, low_up: Tensor, up_bias: Tensor, scaled: Tensor, low_down: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The activated hidden layer anew, the gradient before its activation (both (..., N)), and the
    sums of that over blocks of rows (blocks, N)."""
    (hidden, channels), dtype = low_up.shape, low_up.dtype
    launch = _gelu_products_launch(rows_of(normed), channels, hidden, dtype, precision(dtype))
    shape = (*normed.shape[:-1], hidden)
    activated, grad_hidden = (empty(normed, *shape, dtype=dtype) for _ in range(2))
    blocks = launch.grid[0] // (hidden // launch.constants["COLUMNS"])
    shares = empty(normed, blocks, hidden, dtype=torch.float32)
    launch(normed, low_up, up_bias, scaled, low_down, activated, grad_hidden, shares)
    return activated, grad_hidden, shares


def _mlp_backward(
    grad_out: Tensor,
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_bias: Tensor,
    low_up: Tensor,
    low_down: Tensor,
    eps: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`_mlp_forward` for ``x`` and, in this order and in float32, norm weight
    and bias, up weight and bias, down weight and bias."""
    scaled, grad_down_bias = scale_and_sum(grad_out, keep, low_up.dtype)
    normed = normalise(x, norm_weight, norm_bias, eps, False, low_up.dtype)
    activated, grad_hidden, shares = _hidden_gradients(normed, low_up, up_bias, scaled, low_down)
    grad_x, grad_norm_weight, grad_norm_bias, _ = norm_gradients(
        grad_hidden @ low_up, x, norm_weight, norm_bias, eps, grad_residual=grad_out
    )
    return [
        grad_x, grad_norm_weight, grad_norm_bias, weight_gradient(grad_hidden, normed),
        shares.sum(0), weight_gradient(scaled, activated), grad_down_bias,
    ]  # fmt: skip


_residual_mlp = register("residual_mlp", _mlp_forward)


@_residual_mlp.register_fake
def _(x, *arguments):
    return torch.empty_like(x)


_residual_mlp_backward = register("residual_mlp_backward", _mlp_backward)


@_residual_mlp_backward.register_fake
def _(grad_out, x, keep, norm_weight, norm_bias, up_bias, low_up, low_down, eps):
    def wide(tensor):
        return tensor.new_empty(tensor.shape, dtype=torch.float32)

    return [
        torch.empty_like(x), wide(norm_weight), wide(norm_bias), wide(low_up), wide(up_bias),
        wide(low_down), wide(norm_bias),
    ]  # fmt: skip


def _save_mlp(ctx, inputs, output):
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_mlp_by(gradients):
    def differentiate(ctx, grad_out):
        x, keep, *rest = ctx.saved_tensors
        parameters, low = rest[:6], rest[6:]
        norm_weight, norm_bias, _, up_bias, _, _ = parameters
        grad_x, *grads = gradients(
            grad_out.contiguous(), x, keep, norm_weight, norm_bias, up_bias, *low, ctx.eps
        )
        return grad_x, None, *like_parameters(grads, parameters), None, None, None

    return differentiate


#: Perceptron half-block; arguments and result as of :func:`_mlp_forward`.
residual_mlp = Differentiable(
    _residual_mlp,
    _mlp_forward,
    _save_mlp,
    _differentiate_mlp_by(_residual_mlp_backward),
    _differentiate_mlp_by(_mlp_backward),
)
