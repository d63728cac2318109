"""Tracing with symbols for batch, height and width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .modules import average_pooling, prepare
from .segmentor import SegmentorLogits, mmseg_replacements


def trace(model: nn.Module, size: Sequence[int] = (97, 131), batch: int = 2) -> ExportedProgram:
    """Trace a backbone, or a :class:`SegmentorLogits`, once for every size.

    Args:
        model: takes images (B, channels, H, W) alone; stays as it is.
        size: H and W of the example that is traced. It only has to be larger than one pixel; the
            program takes any other, those smaller than a window included.
        batch: images of the example.

    Returns:
        The program, whose batch, height and width may be any number from 1.

    Raises:
        RuntimeError: if the model would depend on a size in a way that no trace can keep.
    """
    replacements = {nn.AdaptiveAvgPool2d: average_pooling}
    if isinstance(model, SegmentorLogits):
        replacements |= mmseg_replacements()
    model = prepare(model, replacements)
    weight = next(model.parameters())
    channels = getattr(model, "backbone", model).in_channels
    images = weight.new_zeros(batch, channels, *size)
    any_size = Dim.DYNAMIC(min=1)
    # Sizes of one are ordinary sizes here: without it, the trace would assume that there are none.
    with _size_one_is_ordinary(), torch.no_grad():
        return torch.export.export(
            model, (images,), dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},)
        )


def _size_one_is_ordinary():
    from torch.fx.experimental import _config

    if not hasattr(_config, "backed_size_oblivious"):
        raise RuntimeError(f"export needs torch >= 2.9, this is {torch.__version__}")
    return _config.patch(backed_size_oblivious=True)


def example_inputs(program: ExportedProgram) -> tuple[Tensor, ...]:
    """The inputs a program was traced with."""
    return program.example_inputs[0]
