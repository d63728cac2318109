"""The two residual half-blocks as operators of torch.

Few tensors are kept for the backward pass: the half-block's input, and for attention queries, keys,
values and attended map. The norm's output and the hidden layer are computed anew.
"""

from typing import List, Optional  # noqa: UP035

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ..kernels.products import gelu_products, linear, mlp_backward, mlp_forward, norm_linear
from .attention import attend, attention_gradients
from .launch import config, empty, precision, split
from .norm import norm_gradients, normalise, scale_and_sum

#: Up to this many channels, a token's rows stay on chip across a product; beyond, norm and product
#: are passes of their own.
CHANNELS_ON_CHIP = 256
#: Blocks of rows whose programs run side by side, so that they find weights in the L2 cache.
GROUP = 8

_Sizes = List[int]  # noqa: UP006  (window rows, columns, shift rows, columns)
_Maybe = Optional[Tensor]  # noqa: UP045


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _norm_linear(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, weight: Tensor, bias: _Maybe):
    """``norm(x) @ weight^T + bias`` in the dtype of ``weight``."""
    channels, outputs = x.shape[-1], weight.shape[0]
    if channels > CHANNELS_ON_CHIP:
        return F.linear(normalise(x, gamma, beta, eps, False, weight.dtype), weight, bias)
    out = empty(x, *x.shape[:-1], outputs, dtype=weight.dtype)
    rows, chosen = _rows(x), config("norm_linear", channels)
    left, right = split(channels)
    norm_linear[(triton.cdiv(rows, chosen.rows),)](
        x, gamma, beta, weight, weight if bias is None else bias, out, rows, eps, C=channels,
        N=outputs, LEFT=left, RIGHT=right, ROWS=chosen.rows, COLUMNS=chosen.columns,
        HAS_BIAS=bias is not None, PRECISION=precision(weight.dtype), num_warps=chosen.warps,
        num_stages=chosen.stages,
    )  # fmt: skip
    return out


def _linear(
    a: Tensor, weight: Tensor, bias: Tensor, residual: _Maybe = None, keep: _Maybe = None
) -> Tensor:
    """``residual + keep * (a @ weight^T + bias)``, or ``gelu(a @ weight^T + bias)`` without."""
    outputs, inputs = weight.shape
    gelu = residual is None
    out = empty(a, *a.shape[:-1], outputs, dtype=a.dtype if gelu else residual.dtype)
    rows, chosen = _rows(a), config("linear", outputs)
    programs = triton.cdiv(rows, chosen.rows) * triton.cdiv(outputs, chosen.columns)
    linear[(programs,)](
        a, weight, bias, a if gelu else residual, a if keep is None else keep, out, rows,
        rows // a.shape[0], K=inputs, N=outputs, ROWS=chosen.rows, COLUMNS=chosen.columns,
        DEPTH=chosen.depth, GROUP=GROUP, GELU=gelu, RESIDUAL=not gelu, HAS_KEEP=keep is not None,
        PRECISION=precision(a.dtype), num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    return out


def _weight_gradient(grad_out: Tensor, a: Tensor) -> Tensor:
    """``grad_out^T @ a``: (outputs, inputs)."""
    return grad_out.flatten(0, -2).t() @ a.flatten(0, -2)


@torch.library.custom_op("swin_backbone::residual_attention", mutates_args=())
def residual_attention(
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: _Maybe,
    table: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    valid_sizes: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """``x + keep * proj(attention(qkv(norm(x))))``.

    Args:
        x: (B, H, W, C), contiguous.
        keep: (B,) factor of each image's branch; ``None`` for 1.
        seed, valid_sizes, sizes, scale, dropout_p: see
            :func:`swin_backbone.ops.fused.attention.window_attention`.
        dtype: in which products are computed.

    Returns:
        (B, H, W, C) in the dtype of ``x``; then, in ``dtype`` and for the backward pass, queries,
        keys and values (B, H, W, 3 C) and the attended map (B, H, W, C).
    """
    bias = None if qkv_bias is None else qkv_bias.to(dtype)
    qkv = _norm_linear(x, norm_weight, norm_bias, eps, qkv_weight.to(dtype), bias)
    attended = attend(qkv, table, bias, None, valid_sizes, seed, sizes, scale, dropout_p)
    out = _linear(attended, proj_weight.to(dtype), proj_bias, x, keep)
    return out, qkv, attended


@residual_attention.register_fake
def _(x, *arguments):
    dtype = arguments[-1]
    qkv = x.new_empty(*x.shape[:-1], 3 * x.shape[-1], dtype=dtype)
    return torch.empty_like(x), qkv, torch.empty_like(x, dtype=dtype)


@torch.library.custom_op("swin_backbone::residual_attention_backward", mutates_args=())
def residual_attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    attended: Tensor,
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: _Maybe,
    table: Tensor,
    proj_weight: Tensor,
    valid_sizes: _Maybe,
    seed: _Maybe,
    eps: float,
    sizes: _Sizes,
    scale: float,
    dropout_p: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`residual_attention` for ``x`` and, in this order, norm weight and bias,
    qkv weight and bias (empty if there is none), table, projection weight and bias."""
    dtype = qkv.dtype
    scaled, grad_proj_bias = scale_and_sum(grad_out, keep, dtype)
    grad_proj_weight = _weight_gradient(scaled, attended)
    grad_attended = scaled @ proj_weight.to(dtype)
    bias = None if qkv_bias is None else qkv_bias.to(dtype)
    grad_qkv, grad_table, grad_bias, _ = attention_gradients(
        grad_attended, qkv, table, bias, None, valid_sizes, seed, sizes, scale, dropout_p,
        sum_all=bias is not None,
    )  # fmt: skip
    grad_normed = grad_qkv @ qkv_weight.to(dtype)
    grad_x, grad_norm_weight, grad_norm_bias, normed = norm_gradients(
        x, norm_weight, norm_bias, grad_normed, eps, grad_residual=grad_out, normed_dtype=dtype
    )
    grad_qkv_weight = _weight_gradient(grad_qkv, normed)
    return [
        grad_x, grad_norm_weight, grad_norm_bias, grad_qkv_weight, grad_bias, grad_table,
        grad_proj_weight, grad_proj_bias,
    ]  # fmt: skip


@residual_attention_backward.register_fake
def _(grad_out, qkv, attended, x, keep, norm_weight, norm_bias, qkv_weight, qkv_bias, table,
      proj_weight, *arguments):  # fmt: skip
    def wide(tensor):
        return tensor.new_empty(tensor.shape, dtype=torch.float32)

    return [
        torch.empty_like(x), wide(norm_weight), wide(norm_bias),
        qkv_weight.new_empty(qkv_weight.shape, dtype=qkv.dtype),
        qkv.new_empty(0) if qkv_bias is None else wide(qkv_bias), wide(table),
        proj_weight.new_empty(proj_weight.shape, dtype=qkv.dtype), wide(norm_bias),
    ]  # fmt: skip


def _save_attention(ctx, inputs, output):
    (*tensors, ctx.eps, ctx.sizes, ctx.scale, ctx.dropout_p, _) = inputs
    _, qkv, attended = output
    ctx.mark_non_differentiable(qkv, attended)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv, attended, *tensors)


def _differentiate_attention(ctx, grad_out, *_):
    qkv, attended, *tensors = ctx.saved_tensors
    x, keep, *parameters, valid_sizes, seed = tensors
    *without_proj_bias, proj_bias = parameters
    grad_x, *grads = residual_attention_backward(
        grad_out.contiguous(), qkv, attended, x, keep, *without_proj_bias, valid_sizes, seed,
        ctx.eps, ctx.sizes, ctx.scale, ctx.dropout_p,
    )  # fmt: skip
    return grad_x, None, *_like(grads, parameters), *[None] * 7


residual_attention.register_autograd(_differentiate_attention, setup_context=_save_attention)


def _like(grads, parameters):
    """Gradients in their parameters' dtypes; ``None`` for parameters that there are not."""
    pairs = zip(grads, parameters, strict=True)
    return [None if parameter is None else grad.to(parameter.dtype) for grad, parameter in pairs]


@torch.library.custom_op("swin_backbone::residual_mlp", mutates_args=())
def residual_mlp(
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """``x + keep * down(gelu(up(norm(x))))``.

    Args:
        x: (B, H, W, C), contiguous.
        keep: (B,) factor of each image's branch; ``None`` for 1.
        dtype: in which products are computed.

    Returns:
        (B, H, W, C) in the dtype of ``x``.
    """
    up, down = up_weight.to(dtype), down_weight.to(dtype)
    hidden, channels = up.shape
    if channels > CHANNELS_ON_CHIP:
        normed = normalise(x, norm_weight, norm_bias, eps, False, dtype)
        return _linear(_linear(normed, up, up_bias), down, down_bias, x, keep)
    out = torch.empty_like(x)
    rows, chosen = _rows(x), config("mlp_forward", channels)
    left, right = split(channels)
    mlp_forward[(triton.cdiv(rows, chosen.rows),)](
        x, norm_weight, norm_bias, up, up_bias, down, down_bias, x if keep is None else keep, out,
        rows, rows // x.shape[0], eps, C=channels, N=hidden, LEFT=left, RIGHT=right,
        ROWS=chosen.rows, COLUMNS=chosen.columns, HAS_KEEP=keep is not None,
        PRECISION=precision(dtype), num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    return out


@residual_mlp.register_fake
def _(x, *arguments):
    return torch.empty_like(x)


@torch.library.custom_op("swin_backbone::residual_mlp_backward", mutates_args=())
def residual_mlp_backward(
    grad_out: Tensor,
    x: Tensor,
    keep: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`residual_mlp` for ``x`` and, in this order, norm weight and bias, up
    weight and bias, down weight and bias."""
    up, down = up_weight.to(dtype), down_weight.to(dtype)
    backward = _mlp_on_chip if up.shape[1] <= CHANNELS_ON_CHIP else _mlp_in_passes
    grad_x, sums, normed, scaled, activated, grad_hidden = backward(
        grad_out, x, keep, norm_weight, norm_bias, up, up_bias, down, eps
    )
    grad_norm_weight, grad_norm_bias, grad_up_bias, grad_down_bias = sums
    return [
        grad_x, grad_norm_weight, grad_norm_bias, _weight_gradient(grad_hidden, normed),
        grad_up_bias, _weight_gradient(scaled, activated), grad_down_bias,
    ]  # fmt: skip


def _mlp_on_chip(grad_out, x, keep, norm_weight, norm_bias, up, up_bias, down, eps):
    hidden, channels = up.shape
    rows, chosen = _rows(x), config("mlp_backward", channels)
    programs = triton.cdiv(rows, chosen.rows)
    left, right = split(channels)
    grad_x = torch.empty_like(x)
    normed, scaled = (empty(x, rows, channels, dtype=up.dtype) for _ in range(2))
    activated, grad_hidden = (empty(x, rows, hidden, dtype=up.dtype) for _ in range(2))
    shares = [
        empty(x, programs, n, dtype=torch.float32) for n in (channels, channels, hidden, channels)
    ]
    mlp_backward[(programs,)](
        x, norm_weight, norm_bias, up, up_bias, down, x if keep is None else keep, grad_out,
        grad_x, normed, scaled, activated, grad_hidden, *shares, rows, rows // x.shape[0], eps,
        C=channels, N=hidden, LEFT=left, RIGHT=right, ROWS=chosen.rows, COLUMNS=chosen.columns,
        HAS_KEEP=keep is not None, PRECISION=precision(up.dtype), num_warps=chosen.warps,
        num_stages=chosen.stages,
    )  # fmt: skip
    return grad_x, [share.sum(0) for share in shares], normed, scaled, activated, grad_hidden


def _mlp_in_passes(grad_out, x, keep, norm_weight, norm_bias, up, up_bias, down, eps):
    hidden, channels = up.shape
    rows, chosen = _rows(x), config("gelu_products", channels)
    scaled, grad_down_bias = scale_and_sum(grad_out, keep, up.dtype)
    normed = normalise(x, norm_weight, norm_bias, eps, False, up.dtype)
    activated, grad_hidden = (empty(x, *x.shape[:-1], hidden, dtype=up.dtype) for _ in range(2))
    blocks = triton.cdiv(rows, chosen.rows)
    shares = empty(x, blocks, hidden, dtype=torch.float32)
    gelu_products[(blocks * (hidden // chosen.columns),)](
        normed, up, up_bias, scaled, down, activated, grad_hidden, shares, rows, C=channels,
        N=hidden, ROWS=chosen.rows, COLUMNS=chosen.columns, DEPTH=chosen.depth, GROUP=GROUP,
        PRECISION=precision(up.dtype), num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    grad_x, grad_norm_weight, grad_norm_bias, _ = norm_gradients(
        x, norm_weight, norm_bias, grad_hidden @ up, eps, grad_residual=grad_out
    )
    sums = [grad_norm_weight, grad_norm_bias, shares.sum(0), grad_down_bias]
    return grad_x, sums, normed, scaled, activated, grad_hidden


@residual_mlp_backward.register_fake
def _(grad_out, x, keep, norm_weight, norm_bias, up_weight, up_bias, down_weight, eps, dtype):
    def wide(tensor):
        return tensor.new_empty(tensor.shape, dtype=torch.float32)

    return [
        torch.empty_like(x), wide(norm_weight), wide(norm_bias),
        up_weight.new_empty(up_weight.shape, dtype=dtype), wide(up_bias),
        down_weight.new_empty(down_weight.shape, dtype=dtype), wide(norm_bias),
    ]  # fmt: skip


def _save_mlp(ctx, inputs, output):
    *tensors, ctx.eps, ctx.dtype = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_mlp(ctx, grad_out):
    x, keep, *parameters = ctx.saved_tensors
    *without_down_bias, _ = parameters
    grad_x, *grads = residual_mlp_backward(
        grad_out.contiguous(), x, keep, *without_down_bias, ctx.eps, ctx.dtype
    )
    return grad_x, None, *_like(grads, parameters), None, None


residual_mlp.register_autograd(_differentiate_mlp, setup_context=_save_mlp)
