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
def _overlapping(images: int, count: int, words: int, threshold: float) -> Launch:
    numbers = (count, words, threshold)
    return Launch(overlapping, (images * words, words), numbers, {}, {"num_warps": 4})


@remembered
def _sweep(images: int, count: int, words: int) -> Launch:
    most = triton.next_power_of_2(words)
    rows = max(1, min(BLOCK, READ // most))
    constants = {"WORDS": most, "ROWS": rows}
    return Launch(sweep, (images,), (count, words), constants, {"num_warps": WARPS})


def _stays(boxes: Tensor, iou_threshold: float) -> Tensor:
    """bool (B, N), or (N,), of boxes (B, N, 4), or (N, 4), float32, contiguous, best first."""
    shape = boxes.shape[:-1]
    images, count = shape.numel() // max(1, shape[-1]), shape[-1]
    words = triton.cdiv(count, BLOCK)
    rows = boxes.new_empty((images, words * BLOCK, words), dtype=torch.int64)
    columns = boxes.new_empty((images, words * BLOCK), dtype=torch.int64)
    kept = boxes.new_empty((images, words), dtype=torch.int64)
    if boxes.numel():
        _overlapping(images, count, words, iou_threshold)(boxes, rows, columns)
        _sweep(images, count, words)(rows, columns, kept)
    bits = kept[..., None] >> torch.arange(BLOCK, device=boxes.device)
    return (bits & 1).flatten(1)[:, :count].bool().reshape(shape)


#: Which boxes stay; arguments and result as of :func:`_stays`.
stays = register("non_maximum_suppression", _stays)


@stays.register_fake
def _(boxes, iou_threshold):
    return boxes.new_empty(boxes.shape[:-1], dtype=torch.bool)


def unsuppressed(boxes: Tensor, iou_threshold: float) -> Tensor:
    """As :func:`swin_backbone.ops.unsuppressed`, of float32."""
    run = stays if torch.compiler.is_compiling() else _stays
    return run(boxes.contiguous(), float(iou_threshold))


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """As :func:`swin_backbone.ops.non_maximum_suppression`, of float32."""
    order = scores.sort(descending=True, stable=True).indices
    return order[unsuppressed(boxes[order], iou_threshold)]
