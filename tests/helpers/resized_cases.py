"""Losses of resized scores on random inputs."""

import torch

from swin_backbone import ops

from .triton_kernels import DEVICE  # skips first where no kernel can run

IGNORED = 255


def draw(classes, low, size, labels, dtype):
    x = (3 * torch.randn(2, classes, *low, device=DEVICE)).to(dtype)
    y = torch.randint(0, labels, (2, *size), device=DEVICE)
    y[torch.rand(y.shape, device=DEVICE) < 0.2] = IGNORED
    return x, y


def gradient(loss, x):
    """The same random gradient of the loss for all."""
    grad = torch.rand(loss.shape, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad(loss, x, grad.to(loss))[0]


def run(x, y, sigmoid, impl, **options):
    x = x.detach().requires_grad_()
    function = ops.resized_binary_cross_entropy if sigmoid else ops.resized_cross_entropy
    loss, correct = function(x, y, ignore_index=IGNORED, impl=impl, **options)
    return loss.detach(), gradient(loss, x), correct
