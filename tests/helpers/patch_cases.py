"""Patch merging and patch embedding by the kernels and by the modules' functions."""

import torch

from swin_backbone.ops import (
    NormParameters,
    TokenLayout,
    embed_patches,
    merge_norm_linear,
)
from swin_backbone.ops.triton.patch_embed_op import patch_embed
from swin_backbone.ops.triton.patch_merging_op import copy_by_neighbour, merge_reduce

from .triton_kernels import DEVICE  # skips first where no kernel can run


def draw(channels, outputs):
    """Norm's weight and bias, and the reduction's weight."""
    merged = 4 * channels
    weight = torch.randn(outputs, merged, device=DEVICE) * merged**-0.5
    norm_bias = torch.randn(merged, device=DEVICE) * 0.2
    return torch.rand(merged, device=DEVICE) + 0.5, norm_bias, weight


def merge_by_kernel(x, norm_weight, norm_bias, weight, valid_sizes=None, by_column=False):
    low = weight.detach() if by_column else copy_by_neighbour(weight, torch.float32)
    return merge_reduce(x, norm_weight, norm_bias, weight, low, valid_sizes, 1e-5, by_column)


def merge_plainly(x, norm_weight, norm_bias, weight, valid_sizes=None, by_column=False):
    norm = NormParameters(norm_weight, norm_bias, 1e-5)
    return merge_norm_linear(x, norm, weight, TokenLayout(valid_sizes), by_column)


def differentiate(run, tensors, dtype, cotangent):
    tensors = [t.detach().to(dtype).requires_grad_() for t in tensors]
    out = run(*tensors)
    return [out, *torch.autograd.grad(out, tensors, cotangent.to(out.dtype))]


def draw_embedding(channels, image_channels, patch):
    """Convolution's weight and bias, norm's weight and bias."""
    weight = torch.randn(channels, image_channels, *patch, device=DEVICE) * 0.2
    bias = torch.randn(channels, device=DEVICE) * 0.2
    norm_bias = torch.randn(channels, device=DEVICE)
    return [weight, bias, torch.rand(channels, device=DEVICE) + 0.5, norm_bias]


def embed(image, weight, bias, norm_weight, norm_bias):
    return embed_patches(image, weight, bias, NormParameters(norm_weight, norm_bias, 1e-5))


def embed_by_kernel(image, weight, bias, norm_weight, norm_bias, dtype=torch.float32):
    flat = weight.flatten(1)
    options = (flat.detach().to(dtype), 1e-5, list(weight.shape[2:]), torch.float32)
    return patch_embed(image, flat, bias, norm_weight, norm_bias, *options)
