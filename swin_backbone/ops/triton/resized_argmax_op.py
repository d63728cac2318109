"""Class maps from scores at a head's own size as an operator of torch."""

from typing import List, Tuple  # noqa: UP035

import torch
import triton
from torch import Tensor

from ..geometry.resampling import taps
from .autograd_op import register
from .kernels.resized_argmax_kernels import argmax
from .launch import Config, Launch, remembered

#: Columns are pixels of a block, depth is classes: with two taps along both axes, and with more.
PLAIN = Config(columns=128, depth=8, warps=4, stages=1)
COMPOSED = Config(columns=128, depth=4, warps=4, stages=1)


@remembered
def _launch(shape, size, row_taps, column_taps, with_scores) -> Launch:
    batch, classes, low_height, low_width = shape
    config = PLAIN if row_taps == column_taps == 2 else COMPOSED
    constants = {"CLASSES": classes, "UNROLL": config.depth, "BLOCK": config.columns}
    constants |= {"ROW_TAPS": row_taps, "COLUMN_TAPS": column_taps, "WITH_SCORES": with_scores}
    grid = (triton.cdiv(size[0] * size[1], config.columns), batch)
    return Launch(argmax, grid, (*size, low_height, low_width), constants, config.options)


def _forward(
    logits: Tensor,
    row_steps: List[int],  # noqa: UP006
    column_steps: List[int],  # noqa: UP006
    align_corners: bool,
    with_scores: bool,
) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """Classes (B, H, W) int64, and their scores; of no elements if not asked for.

    Args:
        logits: (B, K, h, w), contiguous, 16 or 32 bits.
        row_steps: ``size`` to ``positions`` of :func:`swin_backbone.ops.geometry.resampling.taps`.
        column_steps: likewise.
        align_corners: of both resizes.
        with_scores: whether scores are asked for.
    """
    batch, _, *low = logits.shape
    rows = taps(low[0], *row_steps, align_corners, logits.device)
    columns = taps(low[1], *column_steps, align_corners, logits.device)
    height, width = row_steps[-1], column_steps[-1]
    size = (height, width)
    launch = _launch(
        tuple(logits.shape), size, len(rows.samples), len(columns.samples), with_scores
    )
    classes = logits.new_empty((batch, *size), dtype=torch.int64)
    scores = logits.new_empty((batch, *size) if with_scores else 0, dtype=torch.float32)
    launch(logits, rows.samples, rows.weights, columns.samples, columns.weights, classes, scores)
    return classes, scores


#: Classes and scores; arguments and results as of :func:`_forward`.
resized_argmax = register("resized_argmax", _forward)


@resized_argmax.register_fake
def _(logits, row_steps, column_steps, align_corners, with_scores):
    size = (logits.shape[0], row_steps[-1], column_steps[-1])
    scores = logits.new_empty(size if with_scores else 0, dtype=torch.float32)
    return logits.new_empty(size, dtype=torch.int64), scores


def classes_of(logits: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    """:data:`resized_argmax` in the quickest way; arguments as of :func:`_forward`."""
    run = resized_argmax if torch.compiler.is_compiling() else _forward
    return run(logits, *arguments)
