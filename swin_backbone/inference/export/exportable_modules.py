"""Stand-ins for modules that ask for a size in Python, and so cannot be traced for every size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model import WindowAttention, WindowAttentionV2
from ...model.backbone import SwinBackbone
from ...ops.symbolic_shapes import contiguous

Replacements = Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]]


class AveragePooling(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two products with matrices of weights.

    ONNX has no adaptive pooling whose input may have any size. Cell i of s cells averages the rows
    from floor(i H / s) to ceil((i + 1) H / s).

    Args:
        cells: rows and columns of the output.
    """

    def __init__(self, cells: tuple[int, int]):
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, *cells)."""
        batch, channels, height, width = x.shape
        rows, columns = self.cells
        x = contiguous(x).view(-1, width) @ _cell_weights(width, columns, x)
        x = contiguous(x.view(-1, height, columns).transpose(1, 2)).view(-1, height)
        x = x @ _cell_weights(height, rows, x)
        return x.view(batch, channels, columns, rows).transpose(2, 3)


def _cell_weights(size: int, cells: int, like: Tensor) -> Tensor:
    """(size, cells): the weight of each row (or column) of a map in the mean of each cell."""
    cell = torch.arange(cells, device=like.device)[None, :]
    position = torch.arange(size, device=like.device)[:, None]
    begin = torch.div(cell * size, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * size + cells - 1, cells, rounding_mode="floor")
    inside = ((position >= begin) & (position < end)).to(like.dtype)
    return inside / inside.sum(dim=0, keepdim=True)


class WholeFactorUpsampling(nn.Module):
    """Bilinear upsampling by a whole number.

    Args:
        factor: how many times as many rows and columns.
        align_corners: as in :func:`torch.nn.functional.interpolate`.
    """

    def __init__(self, factor: int, align_corners: bool):
        super().__init__()
        self.factor = factor
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, factor * H, factor * W)."""
        size = (self.factor * x.shape[2], self.factor * x.shape[3])
        return F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)


def average_pooling(module: nn.AdaptiveAvgPool2d) -> nn.Module:
    """The stand-in for an adaptive pooling to a fixed number of cells."""
    size = module.output_size
    rows, columns = (size, size) if isinstance(size, int) else size
    if rows is None or columns is None:
        raise ValueError(f"adaptive pooling must have a fixed output, got output_size={size}")
    return AveragePooling((rows, columns))


def prepare(model: nn.Module, replacements: Replacements) -> nn.Module:
    """A copy of ``model`` in evaluation mode that can be traced; ``model`` stays as it is.

    Args:
        model: any model.
        replacements: stand-ins by the type of module they stand for.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, SwinBackbone):
            module.packed = False  # which has a step for each image of the batch
        if isinstance(module, (WindowAttention, WindowAttentionV2)):
            module.backend = "reference"  # the others choose kernels by size, or are ours alone
        for name, child in module.named_children():
            if type(child) in replacements:
                setattr(module, name, replacements[type(child)](child))
    return model
