"""The two residual half-blocks as operators of torch.

Few tensors are kept for the backward pass: the half-block's input, and for attention queries, keys,
values and attended map. The norm's output and the hidden layer are computed anew.

A parameter comes twice: as it is, for its gradient, and in the dtype in which products are computed
(``low``), for its values.
"""

from functools import lru_cache
from math import gcd
from typing import List, Optional  # noqa: UP035

import torch
import torch.nn.functional as F
import triton
from packaging.version import Version
from torch import Tensor

from ..kernels.products import gelu_products, linear, mlp_forward, norm_linear
from .attention import attend, attention_gradients
from .launch import Launch, config, empty, precision, split
from .norm import norm_gradients, normalise, scale_and_sum
from .operator import Differentiable, own_memory

#: Up to this many channels, a token's rows stay on chip across products; beyond, each product and
#: what it cannot take in is a pass of its own.
CHANNELS_ON_CHIP = 256
#: Blocks of rows whose programs run side by side, so that they find weights in the L2 cache.
GROUP = 8
#: Whether products of 16 bit matrices can be written in float32.
HAS_WIDE_PRODUCT = Version(torch.__version__).release >= (2, 8)

_Sizes = List[int]  # noqa: UP006  (window rows, columns, shift rows, columns)
_Maybe = Optional[Tensor]  # noqa: UP045


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


@lru_cache(maxsize=1024)
def _norm_linear_launch(rows, channels, outputs, eps, has_bias, precision) -> Launch:
    chosen = config("norm_linear", channels)
    left, right = split(channels)
    constants = {"C": channels, "N": outputs, "LEFT": left, "RIGHT": right}
    constants |= {"ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"HAS_BIAS": has_bias, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows),)
    return Launch(norm_linear, grid, (rows, eps), constants, chosen.options)


def _norm_linear(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, weight: Tensor, bias: _Maybe):
    """``norm(x) @ weight^T + bias`` in the dtype of ``weight``."""
    channels, outputs = x.shape[-1], weight.shape[0]
    if channels > CHANNELS_ON_CHIP:
        return F.linear(normalise(x, gamma, beta, eps, False, weight.dtype), weight, bias)
    out = empty(x, *x.shape[:-1], outputs, dtype=weight.dtype)
    launch = _norm_linear_launch(
        _rows(x), channels, outputs, eps, bias is not None, precision(weight.dtype)
    )
    launch(x, gamma, beta, weight, weight if bias is None else bias, out)
    return out


@lru_cache(maxsize=1024)
def _linear_launch(rows, images, inputs, outputs, gelu, has_keep, precision) -> Launch:
    chosen = config("linear", outputs)
    constants = {"K": inputs, "N": outputs, "ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"DEPTH": chosen.depth, "GROUP": GROUP, "GELU": gelu, "RESIDUAL": not gelu}
    constants |= {"HAS_KEEP": has_keep, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows) * triton.cdiv(outputs, chosen.columns),)
    return Launch(linear, grid, (rows, rows // images), constants, chosen.options)


def _linear(
    a: Tensor, weight: Tensor, bias: Tensor, residual: _Maybe = None, keep: _Maybe = None
) -> Tensor:
    """``residual + keep * (a @ weight^T + bias)``, or ``gelu(a @ weight^T + bias)`` without."""
    outputs, inputs = weight.shape
    gelu = residual is None
    out = empty(a, *a.shape[:-1], outputs, dtype=a.dtype if gelu else residual.dtype)
    launch = _linear_launch(
        _rows(a), a.shape[0], inputs, outputs, gelu, keep is not None, precision(a.dtype)
    )
    launch(a, weight, bias, a if gelu else residual, a if keep is None else keep, out)
    return out


def _weight_gradient(grad_out: Tensor, a: Tensor) -> Tensor:
    """``grad_out^T @ a``: (outputs, inputs), float32."""
    left, right = grad_out.flatten(0, -2).t(), a.flatten(0, -2)
    if HAS_WIDE_PRODUCT and left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()


def _attention_forward(
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: _Maybe,
    table: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    low_qkv_weight: Tensor,
    low_qkv_bias: _Maybe,
    low_proj_weight: Tensor,
    valid_sizes: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``x + keep * proj(attention(qkv(norm(x))))``.

    Args:
        x: (B, H, W, C), contiguous.
        keep: (B,) factor of each image's branch; ``None`` for 1.
        seed, valid_sizes, sizes, scale, dropout_p: see
            :func:`swin_backbone.ops.fused.attention.attend`.

    Returns:
        (B, H, W, C) in the dtype of ``x``; then, in that of the low weights and for the backward
        pass, queries, keys and values (B, H, W, 3 C) and the attended map (B, H, W, C).
    """
    qkv = _norm_linear(x, norm_weight, norm_bias, eps, low_qkv_weight, low_qkv_bias)
    padding = low_qkv_bias if valid_sizes is None else None
    attended = attend(qkv, table, padding, None, valid_sizes, seed, sizes, scale, dropout_p)
    return _linear(attended, low_proj_weight, proj_bias, x, keep), qkv, attended


def _attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    attended: Tensor,
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    table: Tensor,
    low_qkv_weight: Tensor,
    low_qkv_bias: _Maybe,
    low_proj_weight: Tensor,
    valid_sizes: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`_attention_forward` for ``x`` and, in this order and in float32, norm
    weight and bias, qkv weight and bias, table, projection weight and bias."""
    dtype = qkv.dtype
    padding = low_qkv_bias if valid_sizes is None else None
    scaled, grad_proj_bias = scale_and_sum(grad_out, keep, dtype)
    grad_proj_weight = _weight_gradient(scaled, attended)
    grad_qkv, grad_table, grad_qkv_bias, _ = attention_gradients(
        scaled @ low_proj_weight, qkv, table, padding, None, valid_sizes, seed, sizes, scale,
        dropout_p, sum_all=low_qkv_bias is not None,
    )  # fmt: skip
    grad_x, grad_norm_weight, grad_norm_bias, normed = norm_gradients(
        grad_qkv @ low_qkv_weight, x, norm_weight, norm_bias, eps, grad_residual=grad_out,
        normed_dtype=dtype,
    )  # fmt: skip
    return [
        grad_x, grad_norm_weight, grad_norm_bias, _weight_gradient(grad_qkv, normed),
        grad_qkv_bias, grad_table, grad_proj_weight, grad_proj_bias,
    ]  # fmt: skip


@torch.library.custom_op("swin_backbone::residual_attention", mutates_args=())
def _residual_attention(
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: _Maybe,
    table: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    low_qkv_weight: Tensor,
    low_qkv_bias: _Maybe,
    low_proj_weight: Tensor,
    valid_sizes: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _attention_forward(
        x, keep, norm_weight, norm_bias, qkv_weight, qkv_bias, table, proj_weight, proj_bias,
        low_qkv_weight, low_qkv_bias, low_proj_weight, valid_sizes, seed, eps, sizes, scale,
        dropout_p,
    )  # fmt: skip


@_residual_attention.register_fake
def _(x, *arguments):
    dtype = arguments[8].dtype
    qkv = x.new_empty(*x.shape[:-1], 3 * x.shape[-1], dtype=dtype)
    return torch.empty_like(x), qkv, torch.empty_like(x, dtype=dtype)


@torch.library.custom_op("swin_backbone::residual_attention_backward", mutates_args=())
def _residual_attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    attended: Tensor,
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    table: Tensor,
    low_qkv_weight: Tensor,
    low_qkv_bias: _Maybe,
    low_proj_weight: Tensor,
    valid_sizes: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> List[Tensor]:  # noqa: UP006
    return own_memory(
        _attention_backward(
            grad_out,
            qkv,
            attended,
            x,
            keep,
            norm_weight,
            norm_bias,
            table,
            low_qkv_weight,
            low_qkv_bias,
            low_proj_weight,
            valid_sizes,
            seed,
            eps,
            sizes,
            scale,
            dropout_p,
        )
    )


@_residual_attention_backward.register_fake
def _(grad_out, qkv, attended, x, keep, norm_weight, norm_bias, table, low_qkv_weight, *arguments):
    def wide(*shape):
        return x.new_empty(shape, dtype=torch.float32)

    channels = x.shape[-1]
    return [
        torch.empty_like(x), wide(channels), wide(channels), wide(3 * channels, channels),
        wide(3 * channels), wide(*table.shape), wide(channels, channels), wide(channels),
    ]  # fmt: skip


def _save_attention(ctx, inputs, output):
    (*tensors, ctx.eps, ctx.sizes, ctx.scale, ctx.dropout_p) = inputs
    _, qkv, attended = output
    ctx.mark_non_differentiable(qkv, attended)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv, attended, *tensors)


def _differentiate_attention_by(gradients):
    def differentiate(ctx, grad_out, *_):
        qkv, attended, x, keep, *rest = ctx.saved_tensors
        parameters, low, masks = rest[:7], rest[7:10], rest[10:]
        norm_weight, norm_bias, _, _, table, _, _ = parameters
        grad_x, *grads = gradients(
            grad_out.contiguous(), qkv, attended, x, keep, norm_weight, norm_bias, table, *low,
            *masks, ctx.eps, ctx.sizes, ctx.scale, ctx.dropout_p,
        )  # fmt: skip
        return grad_x, None, *_like(grads, parameters), *[None] * 9

    return differentiate


def _like(grads, parameters):
    """Gradients in their parameters' dtypes; ``None`` for parameters that there are not."""
    pairs = zip(grads, parameters, strict=True)
    return [None if parameter is None else grad.to(parameter.dtype) for grad, parameter in pairs]


#: Attention half-block; arguments and results as of :func:`_attention_forward`.
residual_attention = Differentiable(
    _residual_attention,
    _attention_forward,
    _save_attention,
    _differentiate_attention_by(_residual_attention_backward),
    _differentiate_attention_by(_attention_backward),
)


@lru_cache(maxsize=1024)
def _mlp_launch(rows, images, channels, hidden, eps, has_keep, precision) -> Launch:
    chosen = config("mlp_forward", channels)
    left, right = split(channels)
    constants = {"C": channels, "N": hidden, "LEFT": left, "RIGHT": right}
    constants |= {"ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"HAS_KEEP": has_keep, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows),)
    return Launch(mlp_forward, grid, (rows, rows // images, eps), constants, chosen.options)


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
        return _linear(_linear(normed, low_up, up_bias), low_down, down_bias, x, keep)
    out = torch.empty_like(x)
    launch = _mlp_launch(
        _rows(x), x.shape[0], channels, hidden, eps, keep is not None,
        precision(low_up.dtype),
    )  # fmt: skip
    launch(
        x, norm_weight, norm_bias, low_up, up_bias, low_down, down_bias,
        x if keep is None else keep, out,
    )  # fmt: skip
    return out


@lru_cache(maxsize=1024)
def _gelu_products_launch(rows, channels, hidden, precision) -> Launch:
    chosen = config("gelu_products", channels)
    constants = {"C": channels, "N": hidden, "ROWS": chosen.rows, "COLUMNS": chosen.columns}
    depth = gcd(channels, chosen.depth)
    constants |= {"DEPTH": depth, "GROUP": GROUP, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows) * (hidden // chosen.columns),)
    return Launch(gelu_products, grid, (rows,), constants, chosen.options)


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
    (hidden, channels), dtype, rows = low_up.shape, low_up.dtype, _rows(x)
    scaled, grad_down_bias = scale_and_sum(grad_out, keep, dtype)
    normed = normalise(x, norm_weight, norm_bias, eps, False, dtype)
    launch = _gelu_products_launch(rows, channels, hidden, precision(dtype))
    activated, grad_hidden = (empty(x, *x.shape[:-1], hidden, dtype=dtype) for _ in range(2))
    blocks = launch.grid[0] // (hidden // launch.constants["COLUMNS"])
    shares = empty(x, blocks, hidden, dtype=torch.float32)
    launch(normed, low_up, up_bias, scaled, low_down, activated, grad_hidden, shares)
    grad_x, grad_norm_weight, grad_norm_bias, _ = norm_gradients(
        grad_hidden @ low_up, x, norm_weight, norm_bias, eps, grad_residual=grad_out
    )
    return [
        grad_x, grad_norm_weight, grad_norm_bias, _weight_gradient(grad_hidden, normed),
        shares.sum(0), _weight_gradient(scaled, activated), grad_down_bias,
    ]  # fmt: skip


@torch.library.custom_op("swin_backbone::residual_mlp", mutates_args=())
def _residual_mlp(
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
    return _mlp_forward(
        x, keep, norm_weight, norm_bias, up_weight, up_bias, down_weight, down_bias, low_up,
        low_down, eps,
    )  # fmt: skip


@_residual_mlp.register_fake
def _(x, *arguments):
    return torch.empty_like(x)


@torch.library.custom_op("swin_backbone::residual_mlp_backward", mutates_args=())
def _residual_mlp_backward(
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
    return own_memory(
        _mlp_backward(grad_out, x, keep, norm_weight, norm_bias, up_bias, low_up, low_down, eps)
    )


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
        return grad_x, None, *_like(grads, parameters), None, None, None

    return differentiate


#: Perceptron half-block; arguments and result as of :func:`_mlp_forward`.
residual_mlp = Differentiable(
    _residual_mlp,
    _mlp_forward,
    _save_mlp,
    _differentiate_mlp_by(_residual_mlp_backward),
    _differentiate_mlp_by(_mlp_backward),
)
