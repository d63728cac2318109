"""Losses on resized scores as an operator of torch.

Scores, labels and one number a pixel are kept for the backward pass, which interpolates again.
"""

from typing import Optional, Tuple  # noqa: UP035

import torch
import triton
from torch import Tensor

from ..geometry.resampling import axis
from .autograd_op import Differentiable, register
from .kernels.resized_losses_kernels import loss_backward, loss_finish, loss_forward
from .launch import Config, Launch, remembered

_Maybe = Optional[Tensor]  # noqa: UP045
#: Columns and rows are of samples, depth is classes: the best of some on an H200, 16 x 150 x 128 x
#: 128 scores in 16 bits. They take no shared memory, so that they fit any card.
FORWARD = Config(columns=32, depth=8, warps=1, stages=1)
BACKWARD = Config(rows=16, columns=128, depth=8, warps=4, stages=1, registers=128)
#: Sums of programs that the last kernel holds at once, and its warps.
SUMS, WARPS = 4096, 8


def _constants(config: Config, classes: int, flags: tuple) -> dict:
    smooth, sigmoid, class_weight, pixel_weight, each = flags
    constants = {"CLASSES": classes, "SIGMOID": sigmoid, "SMOOTH": smooth}
    constants |= {"CLASS_WEIGHT": class_weight, "PIXEL_WEIGHT": pixel_weight, "EACH": each}
    return constants | {"UNROLL": config.depth, "BLOCK": config.columns}


@remembered
def _forward_launch(shape, ignore_index, label_smoothing, flags) -> Launch:
    batch, classes, low_height, low_width, height, width = shape
    numbers = (height, width, low_height, low_width, ignore_index, label_smoothing)
    constants = _constants(FORWARD, classes, flags)
    grid = (low_height * triton.cdiv(low_width, FORWARD.columns), batch)
    return Launch(loss_forward, grid, numbers, constants, FORWARD.options)


@remembered
def _finish_launch(programs, divisor, per_pixel, by_weight) -> Launch:
    constants = {"BLOCK": SUMS, "BY_WEIGHT": by_weight}
    numbers = (programs, divisor, per_pixel)
    return Launch(loss_finish, (1,), numbers, constants, {"num_warps": WARPS})


@remembered
def _backward_launch(shape, reach, ignore_index, label_smoothing, flags) -> Launch:
    batch, classes, low_height, low_width, height, width = shape
    columns = min(BACKWARD.columns, max(32, triton.next_power_of_2(low_width)))
    warps = max(1, BACKWARD.warps * columns // BACKWARD.columns)
    config = BACKWARD._replace(columns=columns, warps=warps)
    numbers = (height, width, low_height, low_width, ignore_index, reach, label_smoothing)
    constants = _constants(config, classes, flags) | {"ROWS": config.rows}
    strips = triton.cdiv(low_height, config.rows) * triton.cdiv(low_width, columns)
    grid = (triton.cdiv(classes, config.depth), strips, batch)
    return Launch(loss_backward, grid, numbers, constants, config.options)


def _shape(logits: Tensor, labels: Tensor) -> tuple[int, ...]:
    return (*logits.shape, *labels.shape[1:])


def _flags(label_smoothing, sigmoid, class_weight, pixel_weight, each) -> tuple[bool, ...]:
    has_weights = class_weight is not None, pixel_weight is not None
    return label_smoothing > 0, sigmoid, *has_weights, each


def _axes(logits: Tensor, labels: Tensor, align_corners: bool):
    (low_height, low_width), (height, width) = logits.shape[2:], labels.shape[1:]
    device = logits.device
    rows = axis(low_height, height, align_corners, torch.float32, device)
    return rows, axis(low_width, width, align_corners, torch.float32, device)


def _forward(
    logits: Tensor,
    labels: Tensor,
    class_weight: _Maybe,
    pixel_weight: _Maybe,
    align_corners: bool,
    ignore_index: int,
    label_smoothing: float,
    sigmoid: bool,
    each: bool,
    divisor: float,
    per_pixel: float,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: UP006
    """Loss, correct pixels, and for the backward pass what the loss was multiplied by and what was
    kept of each pixel.

    Args:
        logits: (B, K, h, w), contiguous, 16 or 32 bits.
        labels: (B, H, W), integers, contiguous.
        class_weight: (K,) or ``None``; with ``label_smoothing`` there must be one.
        pixel_weight: (B, H, W), contiguous, or ``None``.
        align_corners: of the resize.
        ignore_index: label of pixels that do not count.
        label_smoothing: see :func:`swin_backbone.ops.resized_cross_entropy`.
        sigmoid: binary cross entropy of each class.
        each: the loss is each pixel's, (B, H, W), else a sum divided by a number.
        divisor: that number.
        per_pixel: if not zero, so much for each pixel that counts is added to it; for softmax with
            ``class_weight``, times its label's weight.
    """
    flags = _flags(label_smoothing, sigmoid, class_weight, pixel_weight, each)
    shape = _shape(logits, labels)
    launch = _forward_launch(shape, ignore_index, label_smoothing, flags)
    rows, columns = _axes(logits, labels, align_corners)
    programs = launch.grid[0] * launch.grid[1]
    wide = {"dtype": torch.float32}
    partials = logits.new_empty(3 * programs, **wide)
    kept = logits.new_empty(0 if sigmoid else labels.shape, **wide)
    losses = logits.new_empty(labels.shape if each else (), **wide)
    launch(
        logits, labels, logits if class_weight is None else class_weight,
        logits if pixel_weight is None else pixel_weight, rows.first, rows.weight, columns.first,
        columns.weight, kept, losses, partials,
    )  # fmt: skip
    total = logits.new_empty((), **wide) if each else losses
    correct = logits.new_empty((), dtype=torch.int64)
    scale = logits.new_empty((), **wide)
    finish = _finish_launch(programs, divisor, per_pixel, per_pixel != 0)
    finish(partials, total, correct, scale)
    return losses, correct, scale, kept


def _backward(
    logits: Tensor,
    labels: Tensor,
    class_weight: _Maybe,
    pixel_weight: _Maybe,
    grad_loss: Tensor,
    scale: Tensor,
    kept: Tensor,
    align_corners: bool,
    ignore_index: int,
    label_smoothing: float,
    sigmoid: bool,
    each: bool,
) -> Tensor:
    """Gradient of :func:`_forward` for ``logits``."""
    flags = _flags(label_smoothing, sigmoid, class_weight, pixel_weight, each)
    rows, columns = _axes(logits, labels, align_corners)
    shape = _shape(logits, labels)
    launch = _backward_launch(shape, columns.reach, ignore_index, label_smoothing, flags)
    grad_logits = torch.empty_like(logits)
    launch(
        grad_loss.contiguous(), scale, logits, labels,
        logits if class_weight is None else class_weight,
        logits if pixel_weight is None else pixel_weight, kept, rows.first, rows.weight,
        columns.first, columns.lower, columns.weight, grad_logits,
    )  # fmt: skip
    return grad_logits


_resized_loss = register("resized_loss", _forward)


@_resized_loss.register_fake
def _(logits, labels, class_weight, pixel_weight, align_corners, ignore_index, label_smoothing,
      sigmoid, each, divisor, per_pixel):  # fmt: skip
    wide = {"dtype": torch.float32}
    loss = logits.new_empty(labels.shape if each else (), **wide)
    correct = logits.new_empty((), dtype=torch.int64)
    kept = logits.new_empty(0 if sigmoid else labels.shape, **wide)
    return loss, correct, logits.new_empty((), **wide), kept


_resized_loss_backward = register("resized_loss_backward", _backward)


@_resized_loss_backward.register_fake
def _(logits, *_):
    return torch.empty_like(logits)


def _save(ctx, inputs, output):
    logits, labels, class_weight, pixel_weight, *ctx.options = inputs
    _, correct, scale, kept = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(correct, scale, kept)
    ctx.save_for_backward(logits, labels, class_weight, pixel_weight, scale, kept)


def _differentiate_by(gradient):
    def differentiate(ctx, grad_loss, *_):
        if grad_loss is None:
            return (None,) * 11
        *tensors, scale, kept = ctx.saved_tensors
        grad = gradient(*tensors, grad_loss, scale, kept, *ctx.options[:5])
        return grad, *[None] * 10

    return differentiate


#: A loss on resized scores; arguments and results as of :func:`_forward`.
resized_loss = Differentiable(
    _resized_loss,
    _forward,
    _save,
    _differentiate_by(_resized_loss_backward),
    _differentiate_by(_backward),
)
