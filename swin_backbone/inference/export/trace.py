"""Tracing with symbols for batch, height and width."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ...ops.torch_internals.packaging import size_one_is_ordinary
from .detector import DETECTIONS, mmdet_replacements
from .exportable_modules import average_pooling, prepare
from .segmentor import SegmentorLogits, mmseg_replacements


def trace(model: nn.Module) -> ExportedProgram:
    """Trace a backbone, a :class:`SegmentorLogits` or what :func:`detections` gives, once for
    every size.

    Args:
        model: stays as it is. With ``mask_padding`` the program's second input are the
            ``valid_sizes`` (B, 2), int64, of :meth:`swin_backbone.SwinBackbone.forward`.
            ``packed`` says how a batch is computed, and not what, for images that fill it; the
            program computes it as without.

    Returns:
        The program, whose batch, height and width may be any number from 1; a detector's batch is
        of one image.

    Raises:
        RuntimeError: if the model would depend on a size in a way that no trace can keep.
    """
    replacements = {nn.AdaptiveAvgPool2d: average_pooling}
    if isinstance(model, SegmentorLogits):
        replacements |= mmseg_replacements()
    one_image = isinstance(model, DETECTIONS)
    if one_image:
        replacements |= mmdet_replacements()
    model = prepare(model, replacements)
    weight = next(model.parameters())
    backbone = getattr(model, "backbone", model)
    size = example_size(backbone)
    any_size = Dim.DYNAMIC(min=1)
    inputs = [weight.new_zeros(1 if one_image else 2, backbone.in_channels, *size)]
    dynamic = [{2: any_size, 3: any_size} | ({} if one_image else {0: any_size})]
    if backbone.mask_padding:
        inputs.append(torch.tensor([size, (size[0] // 2, size[1] // 3)], device=weight.device))
        dynamic.append({0: any_size})
    # Sizes of one are ordinary sizes here: without it, the trace would assume that there are none.
    with size_one_is_ordinary(), torch.no_grad():
        return torch.export.export(model, tuple(inputs), dynamic_shapes=tuple(dynamic))


def example_size(backbone: nn.Module) -> tuple[int, int]:
    """Height and width to trace with: sizes that have to be padded wherever padding is possible.

    A compiler may look at the example, and leave out for good a part that is empty there: Inductor
    does so where it concatenates, and its code then writes out of bounds on other sizes.
    """
    height = _padded_everywhere(backbone, axis=0, at_least=64)
    return height, _padded_everywhere(backbone, axis=1, at_least=height + 1)


def _padded_everywhere(backbone: nn.Module, axis: int, at_least: int) -> int:
    steps = [stride[axis] for stride in backbone.strides]
    windows = [
        {block.attn.window_size[axis] for block in stage.blocks} for stage in backbone.stages
    ]
    for size in range(at_least, at_least + 10_000):
        if _is_padded_everywhere(size, steps, windows):
            return size
    raise RuntimeError(f"found no example size for strides {steps} and windows {windows}")


def _is_padded_everywhere(tokens: int, steps: list[int], windows: list[set[int]]) -> bool:
    """Whether no step and no window larger than one divides the tokens that it gets."""
    for step, sides in zip(steps, windows, strict=True):
        if step > 1 and tokens % step == 0:
            return False
        tokens = -(-tokens // step)
        if tokens <= max(sides) or any(side > 1 and tokens % side == 0 for side in sides):
            return False
    return True
