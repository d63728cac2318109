"""Focal losses: the sigmoid one from torchvision, the softmax one written out."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import UnsupportedOptionError, at_least_float32, torchvision_ops


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (https://arxiv.org/abs/1708.02002, equation 5) of independent classes.

    Args:
        input: (N, C) logits.
        target: int64 (N,), class of each row; C or any other value for the background.
        weight: (C,) factor on the loss of a row by its class, or of no elements for none.
        output: (N, C), written.
        gamma: exponent that turns attention to what is hard.
        alpha: factor on the loss of a row's own class; other classes have ``1 - alpha``.

    Raises:
        UnsupportedOptionError: for weights with background among the targets, which have none.
    """
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the sum of :func:`sigmoid_focal_loss_forward`, written to ``grad_input``."""
    with torch.enable_grad():
        logits = input.detach().requires_grad_()
        loss = _focal_loss(logits, target, weight, gamma, alpha).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    grad_input.copy_(gradient)


def _focal_loss(input, target, weight, gamma, alpha) -> Tensor:
    input = at_least_float32(input)
    classes = torch.arange(input.shape[1], device=input.device)
    own_class = (target[:, None] == classes).to(input.dtype)
    loss = torchvision_ops().sigmoid_focal_loss(input, own_class, alpha, gamma)
    if weight.numel() == 0:
        return loss
    if not bool(own_class.any(1).all()):
        raise UnsupportedOptionError(
            f"sigmoid_focal_loss with a weight for each of {input.shape[1]} classes takes "
            f"targets from 0 to {input.shape[1] - 1}; background has no weight"
        )
    return loss * weight[target][:, None]


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (https://arxiv.org/abs/1708.02002, equation 5) of classes that exclude each other.

    Args:
        input: (N, C) probabilities, the softmax of the logits.
        target: int64 (N,), class of each row; negative for a row without loss.
        weight: (C,) factor on the loss of a row by its class, or of no elements for none.
        output: (N,), written: ``-alpha (1 - p)^gamma log(p)`` with p that of the row's class.
        gamma: exponent that turns attention to what is hard.
        alpha: factor on all losses.
    """
    own, log_own, factor = _own_class(input, target, weight)
    output.copy_(-alpha * factor * (1 - own) ** gamma * log_own)


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Gradient of the sum of :func:`softmax_focal_loss_forward` with respect to the logits behind
    ``input``, written to ``grad_input``; ``buff`` (N,) gets that of the row's own log-probability.
    """
    own, log_own, factor = _own_class(input, target, weight)
    # At p = 1 the log is 0, whatever the power below 1 would make of 0.
    other = (1 - own).clamp(min=torch.finfo(own.dtype).tiny)
    own_log_grad = alpha * factor * (gamma * other ** (gamma - 1) * own * log_own - other**gamma)
    classes = torch.arange(input.shape[1], device=input.device)
    is_own = (target[:, None] == classes).to(own.dtype)
    buff.copy_(own_log_grad)
    grad_input.copy_(own_log_grad[:, None] * (is_own - input))


def _own_class(input: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probability of each row's class, its log (bounded), and the factor on the row's loss."""
    input = at_least_float32(input)
    label = target.clamp(min=0)
    own = input.gather(1, label[:, None])[:, 0]
    factor = (target >= 0).to(own.dtype)
    if weight.numel() > 0:
        factor = factor * weight[label]
    return own, own.clamp(min=torch.finfo(torch.float32).tiny).log(), factor
