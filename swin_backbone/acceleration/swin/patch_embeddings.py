"""The convolution of patch embeddings, on a GPU: a product whose tokens lie as blocks want them.

A convolution writes channels first, and all libraries then move them to the back. Here the result
has the same shape and lies channels last, so that moving them costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...ops import project_patches
from ...ops.torch_internals.module_contents import children
from ..rewrite import Rewrite, Undo, own_method, replace_methods
from .block_rewrite import NAME
from .on_gpu import on_gpu

#: Rows and columns of a patch, at most, and channels of an image.
LARGEST_PATCH, MOST_CHANNELS = 8, 4


def finds(module: nn.Module) -> bool:
    kind = type(module)
    if kind.__module__.startswith("swin_backbone."):
        return False
    sequence = [type(child).__name__ for child in children(module).values()]
    known = "PatchEmbed" in kind.__name__ or sequence == ["Conv2d", "Permute", "LayerNorm"]
    return known and _convolution(module) is not None


def _convolution(module: nn.Module) -> nn.Conv2d | None:
    """The convolution whose kernel is its stride."""
    for child in children(module).values():
        if type(child) is nn.Conv2d and child.in_channels <= MOST_CHANNELS:
            tiles = child.kernel_size == child.stride and max(child.stride) <= LARGEST_PATCH
            if tiles and child.padding == (0, 0) and child.dilation == (1, 1) and child.groups == 1:
                return child
    return None


def why_not(module: nn.Module) -> str | None:
    return own_method(_convolution(module), "forward", nn.Conv2d)


def apply(module: nn.Module) -> Undo:
    return replace_methods(_convolution(module), {"forward": forward})


def forward(convolution: nn.Conv2d, image: Tensor) -> Tensor:
    """``Conv2d.forward``: (B, channels, H, W) to (B, C, H / rows, W / columns)."""
    usual = type(image) is Tensor and on_gpu(image) and image.dim() == 4 and image.numel()
    if not usual or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return type(convolution).forward(convolution, image)
    if any(side % step for side, step in zip(image.shape[2:], convolution.stride, strict=True)):
        return type(convolution).forward(convolution, image)
    tokens = project_patches(image, convolution.weight, convolution.bias)
    return tokens.permute(0, 3, 1, 2)


REWRITE = Rewrite(NAME, "the projection of patches as a product, on a GPU", finds, why_not, apply)
