"""Non-maximum suppression on a GPU, without a sweep from box to box."""

import torch
import triton
from torch import Tensor

from .autograd_op import register
from .kernels.suppression_kernels import overlapping, sweep
from .launch import Launch, remembered

#: Boxes of a block: the bits of a word.
BLOCK = 64
#: Words that the sweep reads at once, and its warps.
READ, WARPS = 8192, 8


@remembered
def _overlapping(count: int, words: int, threshold: float) -> Launch:
    return Launch(overlapping, (words, words), (count, words, threshold), {}, {"num_warps": 4})


@remembered
def _sweep(count: int, words: int) -> Launch:
    most = triton.next_power_of_2(words)
    rows = max(1, min(BLOCK, READ // most))
    constants = {"WORDS": most, "ROWS": rows}
    return Launch(sweep, (1,), (count, words), constants, {"num_warps": WARPS})


def _stays(boxes: Tensor, iou_threshold: float) -> Tensor:
    """bool (N,), of boxes (N, 4), float32, contiguous, best first."""
    count = len(boxes)
    words = triton.cdiv(count, BLOCK)
    rows = boxes.new_empty((words * BLOCK, words), dtype=torch.int64)
    columns = boxes.new_empty(words * BLOCK, dtype=torch.int64)
    kept = boxes.new_empty(words, dtype=torch.int64)
    if count:
        _overlapping(count, words, iou_threshold)(boxes, rows, columns)
        _sweep(count, words)(rows, columns, kept)
    bits = kept[:, None] >> torch.arange(BLOCK, device=boxes.device)
    return (bits & 1).flatten()[:count].bool()


#: Which boxes stay; arguments and result as of :func:`_stays`.
stays = register("non_maximum_suppression", _stays)


@stays.register_fake
def _(boxes, iou_threshold):
    return boxes.new_empty(len(boxes), dtype=torch.bool)


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """As :func:`swin_backbone.ops.non_maximum_suppression`, of float32."""
    order = scores.sort(descending=True, stable=True).indices
    run = stays if torch.compiler.is_compiling() else _stays
    return order[run(boxes[order].contiguous(), float(iou_threshold))]
