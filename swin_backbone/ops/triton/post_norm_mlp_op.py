"""The MLP branch of a V2 block as an operator of torch.

Kept for the backward pass, in the compute dtype: the branch's input, and what stands before its
norm. The hidden layer is computed again.

A parameter comes twice: as it is, for its gradient, and in the compute dtype (``low``), for its
values.
"""

from typing import List, Optional  # noqa: UP035

import torch
import triton
from torch import Tensor

from . import residual_mlp_op as mlp
from .autograd_op import Differentiable, register
from .kernels.post_norm_mlp_kernels import post_norm_mlp_backward, post_norm_mlp_forward
from .launch import Launch, precision, remembered, split
from .linear_op import (
    CHANNELS_ON_CHIP,
    kept,
    kept_like,
    like_parameters,
    mlp_hidden_gradients,
    multiply,
    rows_of,
    weight_gradient,
)
from .partial_sums import summed
from .post_norm_op import add_normed, normed_gradients
from .tuning import Work, config, tuned

_Maybe = Optional[Tensor]  # noqa: UP045

BACKWARD = "post_norm_mlp_backward"


def _constants(channels, hidden, chosen, has_path_scale, precision) -> dict:
    left, right = split(channels)
    constants = {"C": channels, "N": hidden, "LEFT": left, "RIGHT": right}
    constants |= {"ROWS": chosen.rows, "COLUMNS": chosen.columns}
    return constants | {"HAS_PATH_SCALE": has_path_scale, "PRECISION": precision}


@remembered
def _forward_launch(
    rows, images, channels, hidden, eps, has_path_scale, keep_low, keep, dtype, precision
) -> Launch:
    chosen = config("post_norm_mlp_forward", channels, rows, dtype)
    constants = _constants(channels, hidden, chosen, has_path_scale, precision)
    constants |= {"KEEP_LOW": keep_low, "KEEP": keep}
    grid, numbers = (triton.cdiv(rows, chosen.rows),), (rows, rows // images, eps)
    return Launch(post_norm_mlp_forward, grid, numbers, constants, chosen.options)


def _forward_work(x, *others) -> Work | None:
    low_up, channels = others[7], x.shape[-1]
    if channels > CHANNELS_ON_CHIP:
        return None
    return Work("post_norm_mlp_forward", channels, rows_of(x), low_up.dtype)


@tuned(_forward_launch.cache_clear, _forward_work)
def _mlp_forward(
    x: Tensor,
    path_scale: _Maybe,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    low_up: Tensor,
    low_down: Tensor,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``x + path_scale * norm(down(gelu(up(x))))``.

    Args:
        x: (B, H, W, C) or (T, C), contiguous.
        path_scale: (B,) or (T,) factor of each image's or token's branch; ``None`` for 1.
        keep: whether there will be a backward pass.

    Returns:
        A tensor like ``x``; then, for the backward pass, (rows, C) in the dtype of the low weights:
        ``x``, and what stands before the norm, of wide tokens without the bias of the second linear
        layer. Without, and for an ``x`` of that dtype, it is (0, C).
    """
    (hidden, channels), dtype, rows = low_up.shape, low_up.dtype, rows_of(x)
    low = kept_like(x, dtype, keep)
    if channels > CHANNELS_ON_CHIP:
        cast = low.copy_(x.view(-1, channels)) if len(low) else x.to(dtype).view(-1, channels)
        z = torch.mm(multiply(cast, low_up, up_bias), low_down.t())
        out = add_normed(z, down_bias, norm_weight, norm_bias, x, path_scale, eps)
        return out, low, z if keep else z.new_empty((0, channels))
    z = x.new_empty((rows if keep else 0, channels), dtype=dtype)
    out = torch.empty_like(x)
    launch = _forward_launch(
        rows, x.shape[0], channels, hidden, eps, path_scale is not None, len(low) > 0, keep, dtype,
        precision(dtype),
    )  # fmt: skip
    launch(
        x, low_up, up_bias, low_down, down_bias, norm_weight, norm_bias,
        x if path_scale is None else path_scale, low if len(low) else low_up,
        z if keep else low_up, out,
    )  # fmt: skip
    return out, low, z


def _mlp_backward(
    grad_out: Tensor,
    low: Tensor,
    z: Tensor,
    path_scale: _Maybe,
    up_bias: Tensor,
    down_bias: Tensor,
    norm_weight: Tensor,
    low_up: Tensor,
    low_down: Tensor,
    eps: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of :func:`_mlp_forward` for ``x`` and, in this order and in float32, up weight and
    bias, down weight and bias, norm weight and bias."""
    channels = low.shape[1]
    if channels > CHANNELS_ON_CHIP:
        return _gradients_by_passes(
            grad_out, low, z, path_scale, up_bias, down_bias, norm_weight, low_up, low_down, eps
        )
    if not mlp.backward_fits(channels, low.dtype, low.device, BACKWARD):
        # What is kept has the bias in it.
        none = torch.zeros_like(down_bias)
        return _gradients_by_passes(
            grad_out, low, z, path_scale, up_bias, none, norm_weight, low_up, low_down, eps
        )
    return _gradients_on_chip(
        grad_out, low, z, path_scale, up_bias, norm_weight, low_up, low_down, eps
    )


@remembered
def _rows_launch(
    rows, images, channels, hidden, eps, has_path_scale, write, dtype, precision
) -> Launch:
    chosen = config(BACKWARD, channels, rows, dtype)
    constants = _constants(channels, hidden, chosen, has_path_scale, precision)
    constants |= {"WRITE_HIDDEN": write}
    grid, numbers = (triton.cdiv(rows, chosen.rows),), (rows, rows // images, eps)
    return Launch(post_norm_mlp_backward, grid, numbers, constants, chosen.options)


def _rows_work(grad_out, low, *others) -> Work:
    return Work(BACKWARD, low.shape[1], low.shape[0], low.dtype)


@tuned(_rows_launch.cache_clear, _rows_work)
def _gradients_of_rows(
    grad_out, low, z, path_scale, up_bias, norm_weight, low_up, low_down, eps
) -> tuple[Tensor, ...]:
    """Launch the kernel: the gradients for ``x`` and ``z``, the hidden layer and its gradient where
    they are written (else ``z``'s), and partial sums."""
    (hidden, channels), dtype, rows = low_up.shape, low_up.dtype, low.shape[0]
    write, has_path_scale = mlp.writes_hidden(channels, dtype), path_scale is not None
    launch = _rows_launch(
        rows, grad_out.shape[0], channels, hidden, eps, has_path_scale, write, dtype,
        precision(dtype),
    )  # fmt: skip
    grad_x, grad_z = torch.empty_like(grad_out), torch.empty_like(z)
    activated = grad_hidden = grad_z
    if write:
        activated, grad_hidden = (z.new_empty((rows, hidden)) for _ in range(2))
    columns = 3 * channels + (hidden if write else 0)
    partials = z.new_empty((launch.grid[0], columns), dtype=torch.float32)
    launch(
        low, z, low_up, up_bias, low_down, norm_weight, path_scale if has_path_scale else z,
        grad_out, grad_x, grad_z, activated, grad_hidden, partials,
    )  # fmt: skip
    return grad_x, grad_z, activated, grad_hidden, partials


def _gradients_on_chip(
    grad_out, low, z, path_scale, up_bias, norm_weight, low_up, low_down, eps
) -> list[Tensor]:
    """One pass over the rows for ``x``, then the sums over rows that the rest is made of."""
    hidden, channels = low_up.shape
    grad_x, grad_z, activated, grad_hidden, partials = _gradients_of_rows(
        grad_out, low, z, path_scale, up_bias, norm_weight, low_up, low_down, eps
    )
    pieces = [channels] * 3
    if mlp.writes_hidden(channels, low.dtype):
        grad_gamma, grad_beta, grad_down_bias, grad_up_bias = summed([partials], [*pieces, hidden])
        grad_up = weight_gradient(grad_hidden, low)
        grad_down = weight_gradient(grad_z, activated)
    else:
        # V1's kernel, for which a norm that changes nothing precedes the MLP.
        gamma, beta = torch.ones_like(norm_weight), torch.zeros_like(norm_weight)
        grad_up, grad_down, grad_up_bias, grad_gamma, grad_beta, grad_down_bias = (
            mlp.sums_over_rows(
                low, grad_z, gamma, beta, up_bias, low_up, low_down, [partials], pieces
            )
        )
    return [
        grad_x, grad_up.view(hidden, channels), grad_up_bias, grad_down, grad_down_bias, grad_gamma,
        grad_beta,
    ]  # fmt: skip


def _gradients_by_passes(
    grad_out, low, z, path_scale, up_bias, down_bias, norm_weight, low_up, low_down, eps
) -> list[Tensor]:
    """Each linear layer, and what it cannot fuse, as a pass of its own."""
    hidden, channels = low_up.shape
    grad_z, partials = normed_gradients(z, down_bias, norm_weight, grad_out, path_scale, eps)
    activated, grad_hidden, up_partials = mlp_hidden_gradients(
        low, low_up, up_bias, grad_z, low_down
    )
    grad_x = torch.add(grad_out, torch.mm(grad_hidden, low_up).view_as(grad_out))
    pieces = [channels, channels, channels, hidden]
    grad_gamma, grad_beta, grad_down_bias, grad_up_bias = summed([partials, up_partials], pieces)
    return [
        grad_x, weight_gradient(grad_hidden, low), grad_up_bias,
        weight_gradient(grad_z, activated), grad_down_bias, grad_gamma, grad_beta,
    ]  # fmt: skip


_post_norm_mlp = register("post_norm_mlp", _mlp_forward)


@_post_norm_mlp.register_fake
def _(x, *arguments):
    dtype, channels, keep = arguments[7].dtype, x.shape[-1], arguments[-1]
    z = x.new_empty((x.numel() // channels if keep else 0, channels), dtype=dtype)
    return torch.empty_like(x), kept_like(x, dtype, keep), z


_post_norm_mlp_backward = register("post_norm_mlp_backward", _mlp_backward)


@_post_norm_mlp_backward.register_fake
def _(grad_out, low, z, path_scale, up_bias, down_bias, norm_weight, low_up, low_down, eps):
    def wide(tensor):
        return tensor.new_empty(tensor.shape, dtype=torch.float32)

    return [
        torch.empty_like(grad_out), wide(low_up), wide(up_bias), wide(low_down), wide(down_bias),
        wide(norm_weight), wide(norm_weight),
    ]  # fmt: skip


def _save(ctx, inputs, output):
    *tensors, ctx.eps, _ = inputs
    _, low, z = output
    ctx.mark_non_differentiable(low, z)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(kept(low, tensors[0]), z, *tensors[1:])


def _differentiate_by(gradients):
    def differentiate(ctx, grad_out, *_):
        low, z, path_scale, *rest = ctx.saved_tensors
        parameters, weights = rest[:6], rest[6:]
        _, up_bias, _, down_bias, norm_weight, _ = parameters
        grad_x, *grads = gradients(
            grad_out.contiguous(), low, z, path_scale, up_bias, down_bias, norm_weight, *weights,
            ctx.eps,
        )  # fmt: skip
        return grad_x, None, *like_parameters(grads, parameters), *[None] * 4

    return differentiate


#: MLP branch; arguments and results as of :func:`_mlp_forward`.
post_norm_mlp = Differentiable(
    _post_norm_mlp,
    _mlp_forward,
    _save,
    _differentiate_by(_post_norm_mlp_backward),
    _differentiate_by(_mlp_backward),
)
