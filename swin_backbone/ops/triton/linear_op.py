"""Fused linear layers: their launches, and gradients of weights."""

from __future__ import annotations

from math import gcd, prod

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ..versions import release
from .kernels.linear_kernels import gelu_backward, linear, norm_linear
from .kernels.post_norm_kernels import cast_linear
from .launch import Config, Launch, precision, remembered, split
from .launch import config as shipped_config
from .norm_op import normalise
from .tuning import Work, config, tuned

#: Up to this many channels, a token's rows stay on chip across linear layers; beyond, each layer
#: and what it cannot fuse is a pass of its own.
CHANNELS_ON_CHIP = 256
#: Blocks of rows whose programs run side by side, so that they find weights in the L2 cache.
GROUP = 8
#: Programs that keep a large GPU busy, two for each of its multiprocessors: where a kernel has
#: fewer, its work is cut into smaller blocks.
ENOUGH_PROGRAMS = 264
#: Whether the product of 16 bit matrices can be written in float32.
HAS_FLOAT32_OUTPUT = release(torch.__version__) >= (2, 8)


def rows_of(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _blocks(chosen: Config, rows: int, columns: int) -> tuple[int, int]:
    """Blocks of rows and of columns that cover a matrix."""
    return triton.cdiv(rows, chosen.rows), triton.cdiv(columns, chosen.columns)


def _parts(chosen: Config) -> int:
    """Parts in which a block's results are finished, each of 32 values a thread."""
    return max(1, chosen.rows * chosen.columns // (32 * 32 * chosen.warps))


@remembered
def _norm_linear_launch(rows, channels, outputs, eps, has_bias, dtype, precision) -> Launch:
    chosen, grid, constants = _spans(rows, channels, outputs, has_bias, dtype, precision)
    return Launch(norm_linear, grid, (rows, eps), constants, chosen.options)


@remembered
def _cast_linear_launch(rows, channels, outputs, has_bias, keep, dtype, precision) -> Launch:
    chosen, grid, constants = _spans(rows, channels, outputs, has_bias, dtype, precision)
    return Launch(cast_linear, grid, (rows,), constants | {"KEEP": keep}, chosen.options)


def _spans(rows, channels, outputs, has_bias, dtype, precision) -> tuple[Config, tuple, dict]:
    """Launch parameters, grid and constants of programs that keep their rows for many outputs."""
    chosen = config("norm_linear", channels, rows, dtype)
    left, right = split(channels)
    row_blocks, column_blocks = _blocks(chosen, rows, outputs)
    blocks_per_program = triton.cdiv(column_blocks, triton.cdiv(ENOUGH_PROGRAMS, row_blocks))
    constants = {"C": channels, "N": outputs, "LEFT": left, "RIGHT": right}
    constants |= {"ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"SPAN": blocks_per_program * chosen.columns}
    constants |= {"HAS_BIAS": has_bias, "PRECISION": precision}
    return chosen, (row_blocks, triton.cdiv(column_blocks, blocks_per_program)), constants


def _norm_linear_work(x, gamma, beta, eps, weight, bias) -> Work | None:
    channels = x.shape[-1]
    if channels > CHANNELS_ON_CHIP:
        return None
    return Work("norm_linear", channels, rows_of(x), weight.dtype)


@tuned(_norm_linear_launch.cache_clear, _norm_linear_work)
def launch_norm_linear(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """``norm(x) @ weight^T + bias`` in the dtype of ``weight``."""
    channels, outputs = x.shape[-1], weight.shape[0]
    if channels > CHANNELS_ON_CHIP:
        return F.linear(normalise(x, gamma, beta, eps, False, weight.dtype), weight, bias)
    out = x.new_empty((*x.shape[:-1], outputs), dtype=weight.dtype)
    launch = _norm_linear_launch(
        rows_of(x), channels, outputs, eps, bias is not None, weight.dtype,
        precision(weight.dtype),
    )  # fmt: skip
    launch(x, gamma, beta, weight, weight if bias is None else bias, out)
    return out


def _cast_linear_work(x, weight, bias, keep) -> Work | None:
    channels = x.shape[-1]
    if channels > CHANNELS_ON_CHIP:
        return None
    return Work("norm_linear", channels, rows_of(x), weight.dtype)


@tuned(_cast_linear_launch.cache_clear, _cast_linear_work)
def launch_cast_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor]:
    """``x @ weight^T + bias`` in the dtype of ``weight``; and ``x`` in that dtype, (rows, C), if it
    is to be kept and has another, else (0, C)."""
    channels, outputs, dtype = x.shape[-1], weight.shape[0], weight.dtype
    low = kept_like(x, dtype, keep)
    writes = len(low) > 0
    if channels > CHANNELS_ON_CHIP:
        cast = low.view(x.shape).copy_(x) if writes else x.to(dtype)
        return F.linear(cast, weight, bias), low
    out = x.new_empty((*x.shape[:-1], outputs), dtype=dtype)
    launch = _cast_linear_launch(
        rows_of(x), channels, outputs, bias is not None, writes, dtype, precision(dtype)
    )
    launch(x, weight, weight if bias is None else bias, low if writes else weight, out)
    return out, low


def kept_like(x: Tensor, dtype: torch.dtype, keep: bool) -> Tensor:
    """Memory for the rows of ``x`` in ``dtype``: (0, C) where they have it, or are not kept."""
    channels = x.shape[-1]
    rows = x.numel() // channels if keep and x.dtype != dtype else 0
    return x.new_empty((rows, channels), dtype=dtype)


def kept(low: Tensor, x: Tensor) -> Tensor:
    """Rows (rows, C) of ``x`` in the compute dtype, of which ``low`` is :func:`kept_like`."""
    # Not by the number of rows: a compiler that is asked for it makes a graph of each size.
    return x.view(-1, x.shape[-1]) if x.dtype == low.dtype else low


def _linear_kernel(rows: int, outputs: int, dtype: torch.dtype) -> str:
    """Which entry of configurations is about so many rows, whatever tuning found for either."""
    blocks = _blocks(shipped_config("linear", outputs, dtype), rows, outputs)
    return "linear_few_rows" if prod(blocks) < ENOUGH_PROGRAMS else "linear"


@remembered
def _linear_launch(rows, images, inputs, outputs, gelu, has_path_scale, dtype, precision) -> Launch:
    chosen = config(_linear_kernel(rows, outputs, dtype), outputs, rows, dtype)
    constants = {"K": inputs, "N": outputs, "ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"DEPTH": chosen.depth, "GROUP": GROUP, "GELU": gelu, "RESIDUAL": not gelu}
    constants |= {"PARTS": _parts(chosen), "HAS_PATH_SCALE": has_path_scale, "PRECISION": precision}
    grid = (prod(_blocks(chosen, rows, outputs)),)
    return Launch(linear, grid, (rows, rows // images), constants, chosen.options)


def _linear_work(a, weight, *others) -> Work:
    rows, outputs = rows_of(a), weight.shape[0]
    return Work(_linear_kernel(rows, outputs, a.dtype), outputs, rows, a.dtype)


@tuned(_linear_launch.cache_clear, _linear_work)
def multiply(
    a: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    path_scale: Tensor | None = None,
) -> Tensor:
    """``residual + path_scale * (a @ weight^T + bias)``; without, ``gelu(a @ weight^T + bias)``."""
    outputs, inputs = weight.shape
    gelu = residual is None
    out = a.new_empty((*a.shape[:-1], outputs)) if gelu else torch.empty_like(residual)
    launch = _linear_launch(
        rows_of(a), a.shape[0], inputs, outputs, gelu, path_scale is not None, a.dtype,
        precision(a.dtype),
    )  # fmt: skip
    launch(a, weight, bias, a if gelu else residual, a if path_scale is None else path_scale, out)
    return out


@remembered
def _gelu_backward_launch(rows, channels, hidden, dtype, precision) -> Launch:
    chosen = config("gelu_backward", channels, rows, dtype)
    constants = {"C": channels, "N": hidden, "ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"DEPTH": gcd(channels, chosen.depth), "GROUP": GROUP, "PRECISION": precision}
    grid = (prod(_blocks(chosen, rows, hidden)),)
    return Launch(gelu_backward, grid, (rows,), constants, chosen.options)


def _gelu_backward_work(a, *others) -> Work:
    return Work("gelu_backward", a.shape[-1], rows_of(a), a.dtype)


@tuned(_gelu_backward_launch.cache_clear, _gelu_backward_work)
def mlp_hidden_gradients(
    a: Tensor, up: Tensor, up_bias: Tensor, grad_out: Tensor, down: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``gelu(h)`` of the hidden layer ``h = a @ up^T + up_bias``, and gradients behind it.

    Args:
        a: (rows, C).
        up: (hidden, C); ``up_bias`` is (hidden,).
        grad_out: (rows, C), the gradient of ``gelu(h) @ down^T``.
        down: (C, hidden).

    Returns:
        ``gelu(h)`` and the gradient of ``h``, (rows, hidden) in the dtype of ``a``; partial sums of
        the gradient of ``up_bias``, (blocks of rows, hidden), see
        :func:`swin_backbone.ops.triton.partial_sums.summed`.
    """
    (rows, channels), hidden = a.shape, up.shape[0]
    launch = _gelu_backward_launch(rows, channels, hidden, a.dtype, precision(a.dtype))
    activated = a.new_empty((rows, hidden))
    grad_hidden = torch.empty_like(activated)
    row_blocks = -(-rows // launch.constants["ROWS"])  # triton.cdiv takes longer
    partials = a.new_empty((row_blocks, hidden), dtype=torch.float32)
    launch(a, up, up_bias, grad_out, down, activated, grad_hidden, partials)
    return activated, grad_hidden, partials


def weight_gradient(grad_out: Tensor, a: Tensor) -> Tensor:
    """``grad_out^T @ a`` of two matrices: (outputs, inputs), float32."""
    if HAS_FLOAT32_OUTPUT and a.is_cuda and a.dtype != torch.float32:
        return torch.mm(grad_out.t(), a, out_dtype=torch.float32)
    return torch.mm(grad_out.t(), a).float()


def like_parameters(grads, parameters):
    """Gradients in their parameters' dtypes; ``None`` for parameters that there are not."""
    pairs = zip(grads, parameters, strict=True)
    return [None if parameter is None else _like(grad, parameter) for grad, parameter in pairs]


def _like(grad: Tensor, parameter: Tensor) -> Tensor:
    return grad if grad.dtype == parameter.dtype else grad.to(parameter.dtype)
