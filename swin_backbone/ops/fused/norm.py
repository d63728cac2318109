"""Layer norm as an operator of torch, of a map or of its merged 2 x 2 neighbourhoods."""

from typing import Optional

import torch
from torch import Tensor

from ..kernels.norm import norm_backward, norm_forward, scale_rows
from .launch import empty, looped, norm_rows

_Maybe = Optional[Tensor]  # noqa: UP045


def normed_shape(x: Tensor, merge: bool) -> tuple[int, ...]:
    """Shape of the norm's output for a map (B, H, W, C)."""
    if not merge:
        return tuple(x.shape)
    batch, height, width, channels = x.shape
    return batch, (height + 1) // 2, (width + 1) // 2, 4 * channels


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, merge: bool, dtype: torch.dtype
) -> Tensor:
    """Launch the forward kernel; arguments as of :func:`layer_norm`."""
    out = empty(x, *normed_shape(x, merge), dtype=dtype)
    channels = out.shape[-1]
    rows = out.numel() // channels
    block, columns, warps = norm_rows(channels)
    height, width = (x.shape[1], x.shape[2]) if merge else (0, 0)
    norm_forward[(-(-rows // block),)](
        x, weight, bias, out, rows, eps, height, width, C=channels, COLUMNS=columns, ROWS=block,
        MERGE=merge, num_warps=warps,
    )  # fmt: skip
    return out


def norm_gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    grad_normed: Tensor,
    eps: float,
    merge: bool = False,
    grad_residual: _Maybe = None,
    normed_dtype: Optional[torch.dtype] = None,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor, _Maybe]:
    """Launch the backward kernel.

    Args:
        grad_normed: gradient for the norm's output, contiguous.
        grad_residual: gradient that reaches ``x`` on another path, to be added.
        normed_dtype: dtype in which the norm's output is written anew; ``None`` for not at all.

    Returns:
        Gradients for ``x`` (in its dtype), ``weight`` and ``bias`` (float32), and the norm's output.
    """
    channels = grad_normed.shape[-1]
    rows = grad_normed.numel() // channels
    block, columns, warps = norm_rows(channels)
    programs, rows_per_program = looped(rows, block)
    grad_x = torch.empty_like(x)
    normed = None
    if normed_dtype is not None:
        normed = empty(x, *grad_normed.shape, dtype=normed_dtype)
    shares = empty(x, 2, programs, channels, dtype=torch.float32)
    height, width = (x.shape[1], x.shape[2]) if merge else (0, 0)
    norm_backward[(programs,)](
        x, weight, bias, grad_normed, x if grad_residual is None else grad_residual, grad_x,
        x if normed is None else normed, shares[0], shares[1], rows, eps, height, width,
        rows_per_program, C=channels, COLUMNS=columns, ROWS=block, MERGE=merge,
        RESIDUAL=grad_residual is not None, WRITE_NORMED=normed is not None, num_warps=warps,
    )  # fmt: skip
    grad_weight, grad_bias = shares[0].sum(0), shares[1].sum(0)
    if merge:  # the kernel counts neighbour by neighbour, the parameters channel by channel
        grad_weight, grad_bias = (g.view(4, -1).t().flatten() for g in (grad_weight, grad_bias))
    return grad_x, grad_weight, grad_bias, normed


def scale_and_sum(x: Tensor, keep: _Maybe, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``keep[image] * x`` in ``dtype``, and its column sums in float32.

    Args:
        x: (B, ..., C), contiguous.
        keep: (B,) or ``None``.
    """
    channels = x.shape[-1]
    rows = x.numel() // channels
    block, columns, warps = norm_rows(channels)
    programs, rows_per_program = looped(rows, block)
    out = empty(x, *x.shape, dtype=dtype)
    sums = empty(x, programs, channels, dtype=torch.float32)
    scale_rows[(programs,)](
        x, x if keep is None else keep, out, sums, rows, rows // x.shape[0], rows_per_program,
        C=channels, COLUMNS=columns, ROWS=block, HAS_KEEP=keep is not None, num_warps=warps,
    )  # fmt: skip
    return out, sums.sum(0)


@torch.library.custom_op("swin_backbone::layer_norm", mutates_args=())
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, merge: bool, dtype: torch.dtype
) -> Tensor:
    """Layer norm over channels, of tokens or of merged neighbourhoods.

    Args:
        x: (B, H, W, C), contiguous.
        weight: (C,), or (4 C,) in the order of ``nn.Unfold`` with ``merge``.
        bias: likewise.
        eps: added to the variance.
        merge: normalise 2 x 2 neighbourhoods, zeros beyond the map's border.
        dtype: of the output.

    Returns:
        (B, H, W, C); with ``merge`` (B, ceil(H / 2), ceil(W / 2), 4 C), neighbour by neighbour:
        upper left, upper right, lower left, lower right.
    """
    return normalise(x, weight, bias, eps, merge, dtype)


@layer_norm.register_fake
def _(x, weight, bias, eps, merge, dtype):
    return x.new_empty(normed_shape(x, merge), dtype=dtype)


@torch.library.custom_op("swin_backbone::layer_norm_backward", mutates_args=())
def layer_norm_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, merge: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`layer_norm` for ``x``, ``weight`` and ``bias``."""
    return norm_gradients(x, weight, bias, grad_out, eps, merge)[:3]


@layer_norm_backward.register_fake
def _(grad_out, x, weight, bias, eps, merge):
    wide = {"dtype": torch.float32}
    grads = (weight.new_empty(weight.shape, **wide), bias.new_empty(bias.shape, **wide))
    return torch.empty_like(x), *grads


def _save(ctx, inputs, output):
    *tensors, ctx.eps, ctx.merge, _ = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_out):
    tensors = ctx.saved_tensors
    grads = layer_norm_backward(grad_out.contiguous(), *tensors, ctx.eps, ctx.merge)
    grads = [grad.to(tensor.dtype) for grad, tensor in zip(grads, tensors, strict=True)]
    return *grads, None, None, None


layer_norm.register_autograd(_differentiate, setup_context=_save)
