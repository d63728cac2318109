"""The MLP branch of a block as an operator of torch.

Nothing but its input is kept for the backward pass: norm and hidden layer are recomputed.

A parameter comes twice: as it is, for its gradient, and in the compute dtype (``low``), for its
values.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import List, Optional  # noqa: UP035

import torch
import triton
from torch import Tensor

from .autograd_op import Differentiable, register
from .kernels.mlp_kernels import (
    mlp_backward,
    mlp_forward,
    mlp_parameter_gradients,
    mlp_weight_gradients,
)
from .launch import Launch, precision, remembered, shared_memory, split
from .linear_op import (
    CHANNELS_ON_CHIP,
    like_parameters,
    mlp_hidden_gradients,
    multiply,
    rows_of,
    weight_gradient,
)
from .norm_op import norm_partials, normalise, scale_and_sum
from .partial_sums import summed
from .tuning import Work, config, tuned, untried

_Maybe = Optional[Tensor]  # noqa: UP045

#: Up to this many channels the weights' gradients can be summed on chip, where the hidden layer is
#: computed once more, so that it is never written.
CHANNELS_RECOMPUTED = 192


@remembered
def _forward_launch(
    rows, images, channels, hidden, eps, has_path_scale, dtype, precision
) -> Launch:
    chosen = config("mlp_forward", channels, rows, dtype)
    constants = _sizes(channels, hidden) | {"ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"HAS_PATH_SCALE": has_path_scale, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows),)
    return Launch(mlp_forward, grid, (rows, rows // images, eps), constants, chosen.options)


def _sizes(channels: int, hidden: int) -> dict[str, int]:
    left, right = split(channels)
    return {"C": channels, "N": hidden, "LEFT": left, "RIGHT": right}


def _forward_work(x, *others) -> Work | None:
    low_up, channels = others[7], x.shape[-1]
    if channels > CHANNELS_ON_CHIP:
        return None
    return Work("mlp_forward", channels, rows_of(x), low_up.dtype)


@tuned(_forward_launch.cache_clear, _forward_work)
def mlp_branch(
    x: Tensor,
    path_scale: _Maybe,
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
    """``x + path_scale * down(gelu(up(norm(x))))``.

    Args:
        x: (B, H, W, C) or (T, C), contiguous.
        path_scale: (B,) or (T,) factor of each image's or token's branch; ``None`` for 1.

    Returns:
        (B, H, W, C) in the dtype of ``x``.
    """
    hidden, channels = low_up.shape
    if channels > CHANNELS_ON_CHIP:
        normed = normalise(x, norm_weight, norm_bias, eps, False, low_up.dtype)
        return multiply(multiply(normed, low_up, up_bias), low_down, down_bias, x, path_scale)
    out = torch.empty_like(x)
    launch = _forward_launch(
        rows_of(x), x.shape[0], channels, hidden, eps, path_scale is not None,
        low_up.dtype, precision(low_up.dtype),
    )  # fmt: skip
    launch(
        x, norm_weight, norm_bias, low_up, up_bias, low_down, down_bias,
        x if path_scale is None else path_scale, out,
    )  # fmt: skip
    return out


def mlp_branch_gradients(
    grad_out: Tensor,
    x: Tensor,
    path_scale: _Maybe,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_bias: Tensor,
    low_up: Tensor,
    low_down: Tensor,
    eps: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`mlp_branch` for ``x`` and, in this order and in float32, norm weight
    and bias, up weight and bias, down weight and bias."""
    on_chip = backward_fits(x.shape[-1], low_up.dtype, x.device)
    gradients = _gradients_on_chip if on_chip else _gradients_by_passes
    return gradients(
        grad_out, x, path_scale, norm_weight, norm_bias, up_bias, low_up, low_down, eps
    )


def writes_hidden(channels: int, dtype: torch.dtype) -> bool:
    """Whether the weights' gradients are torch's matmul, of a hidden layer that is written.

    For wide tokens their sums do not fit on chip, and matrix units take float32 in one order only,
    which sums over rows are not in.
    """
    return channels > CHANNELS_RECOMPUTED or dtype == torch.float32


@lru_cache(maxsize=64)
def backward_fits(
    channels: int, dtype: torch.dtype, device: torch.device, kernel: str = "mlp_backward"
) -> bool:
    """Whether the kernels' blocks fit on chip: two that stay, two of each stage's in flight.

    It is asked of the blocks that are taken untried, so that tuning changes none of the passes.
    """
    if channels > CHANNELS_ON_CHIP:
        return False
    chosen = untried(kernel, channels, dtype)
    size = 2 * (chosen.rows + chosen.stages * chosen.columns) * channels
    size += chosen.rows * chosen.columns  # what is written changes its layout there
    if not writes_hidden(channels, dtype):
        chosen = untried("mlp_weight_gradients", channels, dtype)
        size = max(size, 2 * (chosen.columns + chosen.stages * chosen.rows) * channels)
    return size * dtype.itemsize <= shared_memory(device)


def _gradients_on_chip(
    grad_out, x, path_scale, norm_weight, norm_bias, up_bias, low_up, low_down, eps
) -> list[Tensor]:
    """One pass over the rows for ``x``, then the sums over rows that the rest is made of."""
    (hidden, channels), write = low_up.shape, writes_hidden(x.shape[-1], low_up.dtype)
    grad_x, unit, scaled, activated, grad_hidden, partials = _gradients_of_rows(
        grad_out, x, path_scale, norm_weight, norm_bias, up_bias, low_up, low_down, eps
    )
    if write:
        grad_down = weight_gradient(scaled, activated)
        product = weight_gradient(grad_hidden, unit)
        totals = product[:, channels:]
    else:
        product, grad_down, totals = sums_over_rows(
            unit, scaled, norm_weight, norm_bias, up_bias, low_up, low_down
        )
    pieces = [channels, channels, channels, hidden, hidden * channels]
    grads = x.new_empty(sum(pieces), dtype=torch.float32)
    pitch, step = (channels + 8, channels + 8) if write else (channels, 1)
    _parameters_launch(partials.shape[0], channels, hidden, pitch, step)(
        product, totals, low_up, norm_weight, norm_bias, partials, grads
    )
    grad_gamma, grad_beta, grad_down_bias, grad_up_bias, grad_up = grads.split_with_sizes(pieces)
    grad_up = grad_up.view(hidden, channels)
    return [grad_x, grad_gamma, grad_beta, grad_up, grad_up_bias, grad_down, grad_down_bias]


@remembered
def _rows_launch(
    rows, images, channels, hidden, eps, has_path_scale, write, dtype, precision
) -> Launch:
    chosen = config("mlp_backward", channels, rows, dtype)
    constants = _sizes(channels, hidden) | {"ROWS": chosen.rows, "COLUMNS": chosen.columns}
    constants |= {"HAS_PATH_SCALE": has_path_scale, "WRITE_HIDDEN": write, "PRECISION": precision}
    grid = (triton.cdiv(rows, chosen.rows),)
    return Launch(mlp_backward, grid, (rows, rows // images, eps), constants, chosen.options)


def _rows_work(grad_out, x, *others) -> Work:
    return Work("mlp_backward", x.shape[-1], rows_of(x), others[4].dtype)


@tuned(_rows_launch.cache_clear, _rows_work)
def _gradients_of_rows(
    grad_out, x, path_scale, norm_weight, norm_bias, up_bias, low_up, low_down, eps
) -> tuple[Tensor, ...]:
    """Launch the kernel of :func:`mlp_backward`: the gradient for ``x``, then, in its order, what
    the parameters' are made of. Without a hidden layer written, ``unit`` stands in for it."""
    (hidden, channels), dtype, rows = low_up.shape, low_up.dtype, rows_of(x)
    write, has_path_scale = writes_hidden(channels, dtype), path_scale is not None
    launch = _rows_launch(
        rows, x.shape[0], channels, hidden, eps, has_path_scale, write, dtype, precision(dtype)
    )
    grad_x, scaled = torch.empty_like(x), x.new_empty((rows, channels), dtype=dtype)
    if write:
        unit = x.new_empty((rows, channels + 8), dtype=dtype)
        activated, grad_hidden = (x.new_empty((rows, hidden), dtype=dtype) for _ in range(2))
    else:
        unit = activated = grad_hidden = torch.empty_like(scaled)
    partials = x.new_empty((launch.grid[0], channels), dtype=torch.float32)
    launch(
        x, norm_weight, norm_bias, low_up, up_bias, low_down, path_scale if has_path_scale else x,
        grad_out, grad_x, unit, scaled, activated, grad_hidden, partials,
    )  # fmt: skip
    return grad_x, unit, scaled, activated, grad_hidden, partials


@remembered
def _weights_launch(rows, channels, hidden, dtype, precision) -> Launch:
    chosen = config("mlp_weight_gradients", channels, rows, dtype)
    constants = _sizes(channels, hidden) | {"ROWS": chosen.rows, "UNITS": chosen.columns}
    constants |= {"PRECISION": precision}
    blocks, slices = triton.cdiv(rows, chosen.rows), hidden // chosen.columns
    blocks_per_program = triton.cdiv(blocks, max(1, chosen.programs // slices))
    grid = (slices, triton.cdiv(blocks, blocks_per_program))
    numbers = (rows, blocks_per_program * chosen.rows)
    return Launch(mlp_weight_gradients, grid, numbers, constants, chosen.options)


def _weights_work(unit, *others, **options) -> Work:
    return Work("mlp_weight_gradients", unit.shape[-1], unit.shape[0], unit.dtype)


@tuned(_weights_launch.cache_clear, _weights_work)
def sums_over_rows(
    unit: Tensor,
    scaled: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_bias: Tensor,
    low_up: Tensor,
    low_down: Tensor,
    others: Sequence[Tensor] = (),
    pieces: Sequence[int] = (),
) -> tuple[Tensor, ...]:
    """Launch the kernel of :func:`mlp_weight_gradients`: the product of the hidden layer's gradient
    and ``unit``, the gradient of the down weight, and the sums of the hidden layer's gradient.

    Args:
        unit: (rows, C), what the up product gets before gamma and beta.
        scaled: (rows, C), the gradient of the down product.
        norm_weight: gamma (C,), as ``norm_bias``, beta.
        others: more partial sums, to be summed in the same launch, and their ``pieces``: as of
            :func:`swin_backbone.ops.triton.partial_sums.summed`. What they give follows.
    """
    (hidden, channels), dtype = low_up.shape, low_up.dtype
    launch = _weights_launch(unit.shape[0], channels, hidden, dtype, precision(dtype))
    size, programs = hidden * channels, launch.grid[1]
    parts = unit.new_empty((programs, 2 * size + hidden), dtype=torch.float32)
    weighted = unit.new_empty((programs, size))
    launch(unit, scaled, norm_weight, norm_bias, low_up, up_bias, low_down, weighted, parts)
    product, grad_down, *rest = summed([parts, *others], [size, size, hidden, *pieces])
    return product, grad_down.view(channels, hidden), *rest


@remembered
def _parameters_launch(programs, channels, hidden, pitch, step) -> Launch:
    constants = {"C": channels, "N": hidden, "PITCH": pitch, "STEP": step}
    constants |= {"CHANNELS": 8, "UNITS": 128, "PARTIALS": 1024}
    grid = (channels // 8, 2)
    return Launch(mlp_parameter_gradients, grid, (programs,), constants, {"num_warps": 8})


def _gradients_by_passes(
    grad_out, x, path_scale, norm_weight, norm_bias, up_bias, low_up, low_down, eps
) -> list[Tensor]:
    """Each linear layer, and what it cannot fuse, as a pass of its own."""
    dtype = low_up.dtype
    hidden, channels = low_up.shape
    scaled, down_partials = scale_and_sum(grad_out, path_scale, dtype)
    normed = normalise(x, norm_weight, norm_bias, eps, False, dtype).view(-1, channels)
    activated, grad_hidden, up_partials = mlp_hidden_gradients(
        normed, low_up, up_bias, scaled, low_down
    )
    grad_x, partials, _ = norm_partials(
        torch.mm(grad_hidden, low_up), x, norm_weight, norm_bias, eps, grad_residual=grad_out
    )
    pieces = [channels, channels, hidden, channels]
    grad_norm_weight, grad_norm_bias, grad_up_bias, grad_down_bias = summed(
        [partials, up_partials, down_partials], pieces
    )
    return [
        grad_x, grad_norm_weight, grad_norm_bias, weight_gradient(grad_hidden, normed),
        grad_up_bias, weight_gradient(scaled, activated), grad_down_bias,
    ]  # fmt: skip


_residual_mlp = register("residual_mlp", mlp_branch)


@_residual_mlp.register_fake
def _(x, *arguments):
    return torch.empty_like(x)


_residual_mlp_backward = register("residual_mlp_backward", mlp_branch_gradients)


@_residual_mlp_backward.register_fake
def _(grad_out, x, path_scale, norm_weight, norm_bias, up_bias, low_up, low_down, eps):
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
        x, path_scale, *rest = ctx.saved_tensors
        parameters, low = rest[:6], rest[6:]
        norm_weight, norm_bias, _, up_bias, _, _ = parameters
        grad_x, *grads = gradients(
            grad_out.contiguous(), x, path_scale, norm_weight, norm_bias, up_bias, *low, ctx.eps
        )
        return grad_x, None, *like_parameters(grads, parameters), None, None, None

    return differentiate


#: MLP branch; arguments and result as of :func:`mlp_branch`.
residual_mlp = Differentiable(
    _residual_mlp,
    mlp_branch,
    _save_mlp,
    _differentiate_mlp_by(_residual_mlp_backward),
    _differentiate_mlp_by(mlp_branch_gradients),
)
