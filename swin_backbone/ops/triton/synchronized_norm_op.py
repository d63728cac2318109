"""Batch norm of a map whose batch is spread over processes, forward and backward, without a wait
for the GPU.

Processes tell each other what torch's ``SyncBatchNorm`` has them tell, so that one of them may go
through that: mean, one over the standard deviation and number of pixels of each, gathered; in the
backward pass sums of the gradient and of its product with the map less its mean, over all.
torch leaves out processes without pixels, and waits for the GPU to know which these are; a kernel
gives them no weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import triton
from torch import Tensor

from ..double_backward import differentiable_once
from ..torch_internals.module_contents import buffers
from .batch_norm_op import (
    apply_launch,
    backward_launch,
    finish_launch,
    gradient_sums_of,
    normalise_batch,
    normalise_batch_backward,
    partial_statistics,
    with_pitch,
)
from .kernels.batch_norm_kernels import (
    normalise_channels,
    own_statistics,
    statistics_of_processes,
)
from .launch import Launch, remembered


@remembered
def _of_all_launch(processes, channels, eps, momentum) -> Launch:
    constants = {"C": channels, "ROWS": 16, "COLUMNS": 64}
    grid, numbers = (triton.cdiv(channels, 64),), (processes, eps, momentum)
    return Launch(statistics_of_processes, grid, numbers, constants, {"num_warps": 4})


def _own(x: Tensor, eps: float) -> Tensor:
    """(2 C + 1,) float32: mean, one over the standard deviation, pixels; zeros of none."""
    channels = x.shape[1]
    if x.numel() == 0:
        return x.new_zeros(2 * channels + 1, dtype=torch.float32)
    own = x.new_empty(2 * channels + 1, dtype=torch.float32)
    partials, numbers = partial_statistics(x)
    finish_launch(own_statistics, (*numbers, eps), channels)(partials, own)
    return own


def _gathered(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Each process's row, (processes, columns)."""
    processes = dist.get_world_size(group)
    found = own.new_empty((processes, own.numel()))
    if dist.get_backend(group) == "gloo":  # it takes them one by one, as in SyncBatchNorm
        dist.all_gather(list(found.unbind()), own, group)
        return found
    # torch 2.14 has another name for it.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(found.view(-1), own, group)
    return found


def joined_statistics(
    gathered: Tensor, running: Sequence[Tensor], eps: float, momentum: float
) -> Tensor:
    """Statistics of all processes, which move the running ones.

    Args:
        gathered: (processes, 2 C + 1) float32: mean, one over the standard deviation and number of
            pixels of each, zeros of one without.
        running: mean and variance (C,) and the number of batches, which change in place.
        eps: added to variances.
        momentum: how much of the batch's statistics the running ones take.

    Returns:
        (2 C + 1,) float32, the same of all.
    """
    processes, columns = gathered.shape
    statistics = gathered.new_empty(columns)
    _of_all_launch(processes, columns // 2, eps, momentum)(gathered, *running, statistics)
    return statistics


def normalise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running: Sequence[Tensor],
    eps: float,
    momentum: float,
    relu: bool,
    group: dist.ProcessGroup | None,
) -> tuple[Tensor, Tensor]:
    """:func:`normalise_batch`, whose arguments these are, by statistics of all processes.

    Args:
        x: may be without images.
        group: the processes; ``None`` for this one alone.

    Returns:
        The normed map, and the statistics; of a group, with the number of its pixels behind them,
        (2 C + 1,) float32.
    """
    if group is None:
        return normalise_batch(x, weight, bias, running, eps, momentum, relu)
    channels = x.shape[1]
    statistics = joined_statistics(_gathered(_own(x, eps), group), running, eps, momentum)
    out = torch.empty_like(x)
    if x.numel():
        rows = x.numel() // channels
        launch = apply_launch(normalise_channels, (rows,), channels, RELU=relu)
        launch(x, statistics, weight, bias, out)
    return out, statistics


def normalise_backward(
    grad_out: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    relu: bool,
    group: dist.ProcessGroup | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`normalise` for ``x``, and, in float32, this process's part of those for
    weight and bias."""
    if group is None:
        return normalise_batch_backward(grad_out, x, statistics, weight, bias, relu)
    channels = x.shape[1]
    grad_x = torch.empty_like(x)
    if x.numel() == 0:
        told = x.new_zeros(2 * channels, dtype=torch.float32)
        dist.all_reduce(told, group=group)
        return grad_x, *x.new_zeros((2, channels), dtype=torch.float32).unbind()
    grad_out, pitch = with_pitch(grad_out)
    of_weight, of_bias = gradient_sums_of(grad_out, pitch, x, statistics, weight, bias, relu)
    told = torch.cat([of_bias, of_weight / statistics[channels : 2 * channels]])
    dist.all_reduce(told, group=group)
    launch = backward_launch(x.numel() // channels, pitch, channels, relu, together=True)
    launch(grad_out, x, statistics, weight, bias, told, grad_x)
    return grad_x, of_weight, of_bias


class _SynchronizedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, norm, group):
        own = buffers(norm)
        running = own["running_mean"], own["running_var"], own["num_batches_tracked"]
        out, statistics = normalise(x, weight, bias, running, norm.eps, norm.momentum, False, group)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.group = group
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad_out):
        x, weight, bias, statistics = ctx.saved_tensors
        grad, of_weight, of_bias = normalise_backward(
            grad_out, x, statistics, weight, bias, False, ctx.group
        )
        return grad, of_weight.to(weight.dtype), of_bias.to(bias.dtype), None, None


def synchronized_norm(x: Tensor, norm: torch.nn.SyncBatchNorm, group: dist.ProcessGroup) -> Tensor:
    """``norm(x)`` in training.

    Args:
        x: (B, C, H, W), in any memory format; may be without images.
        norm: with weight, bias, running statistics and momentum.
        group: the processes that share statistics.

    Returns:
        (B, C, H, W), channels-last.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    return _SynchronizedNorm.apply(x, norm.weight, norm.bias, norm, group)
