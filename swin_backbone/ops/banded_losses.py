"""Losses on resized scores by bands of rows, in PyTorch: scores at full size exist for a band only.

The backward pass recomputes a band's scores. On the CPU a band and what is made of it stay in
cache, which makes up for that.
"""

from collections.abc import Iterator
from typing import NamedTuple, Optional, Tuple  # noqa: UP035

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry.resampling import axis, mixing
from .loss_terms import Terms
from .reference.resized_losses_reference import as_dtype, count_best, is_class, loss_dtype
from .triton.autograd_op import Differentiable, register

_Maybe = Optional[Tensor]  # noqa: UP045
#: Scores of a band: 2 MiB in float32 on a CPU, as much as its caches hold; many more on a GPU,
#: where a launch has to be worth its while.
BAND, BAND_ON_GPU = 2**19, 2**26


class _Band(NamedTuple):
    """Rows of pixels of one image.

    Attributes:
        image: its number.
        rows: of pixels.
        samples: rows of samples that they mix.
        mixing: (rows, samples), of which parts.
    """

    image: int
    rows: slice
    samples: slice
    mixing: Tensor

    def scores(self, logits: Tensor, width: int, align_corners: bool) -> Tensor:
        """(K, rows, width)."""
        samples = logits[self.image, :, self.samples].to(self.mixing.dtype)
        mixed = torch.matmul(self.mixing, samples)
        size = (mixed.shape[1], width)
        return F.interpolate(mixed[None], size, mode="bilinear", align_corners=align_corners)[0]

    def add_gradient(self, grad_scores: Tensor, grad_logits: Tensor, align_corners: bool) -> None:
        """Add to ``grad_logits`` (B, K, h, w) what ``grad_scores`` (K, rows, width) give it."""
        classes, rows, width = grad_scores.shape
        grad_mixed = torch.ops.aten.upsample_bilinear2d_backward(
            grad_scores[None], [rows, width], [1, classes, rows, grad_logits.shape[3]],
            align_corners,
        )[0]  # fmt: skip
        grad_logits[self.image, :, self.samples] += torch.matmul(self.mixing.T, grad_mixed)


def _bands(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Iterator[_Band]:
    """All rows of all images of a batch."""
    batch, classes, low_height, _ = logits.shape
    height, width = size
    dtype = loss_dtype(logits)
    table = axis(low_height, height, align_corners, dtype, logits.device)
    lower = axis(low_height, height, align_corners, dtype).lower
    scores = BAND_ON_GPU if logits.is_cuda else BAND
    step = max(1, scores // (classes * width))
    for image in range(batch):
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            samples = slice(int(lower[rows.start]), min(int(lower[rows.stop - 1]) + 2, low_height))
            yield _Band(image, rows, samples, mixing(table, rows, samples))


def _forward(
    logits: Tensor,
    labels: Tensor,
    class_weight: _Maybe,
    pixel_weight: _Maybe,
    align_corners: bool,
    ignore_index: int,
    label_smoothing: float,
    sigmoid: bool,
) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
    """Each pixel's loss (B, H, W), the number of correct pixels, and for the backward pass what was
    kept of each pixel; arguments as of :class:`Terms`."""
    terms = Terms(
        align_corners, ignore_index, class_weight, pixel_weight, label_smoothing, sigmoid,
        logits.shape[1],
    )  # fmt: skip
    losses = logits.new_empty(labels.shape, dtype=loss_dtype(logits))
    kept = losses.new_empty(0 if sigmoid else labels.shape)
    correct = labels.new_zeros((), dtype=torch.int64)
    for band in _bands(logits, labels.shape[1:], align_corners):
        scores = band.scores(logits, labels.shape[2], align_corners)
        here = labels[band.image, band.rows].long()
        if sigmoid:
            loss = _sigmoid_losses(scores, here, terms)
        else:
            log_sum = scores.logsumexp(0)
            kept[band.image, band.rows] = log_sum
            loss = _softmax_losses(scores, log_sum, here, terms)
        losses[band.image, band.rows] = loss
        known = terms.counted(here) & is_class(here, len(scores))
        correct += count_best(scores[None], here[None], known[None])
    return terms.weighted(losses), correct, kept


def _backward(
    logits: Tensor,
    labels: Tensor,
    class_weight: _Maybe,
    pixel_weight: _Maybe,
    grad_losses: Tensor,
    kept: Tensor,
    align_corners: bool,
    ignore_index: int,
    label_smoothing: float,
    sigmoid: bool,
) -> Tensor:
    """Gradient of :func:`_forward` for ``logits``."""
    terms = Terms(
        align_corners, ignore_index, class_weight, pixel_weight, label_smoothing, sigmoid,
        logits.shape[1],
    )  # fmt: skip
    grad_losses = terms.weighted(grad_losses)
    grad_logits = torch.zeros_like(logits, dtype=loss_dtype(logits))
    for band in _bands(logits, labels.shape[1:], align_corners):
        scores = band.scores(logits, labels.shape[2], align_corners)
        here = labels[band.image, band.rows].long()
        known = terms.counted(here) & is_class(here, terms.labels)
        grad = torch.where(known, grad_losses[band.image, band.rows], 0)
        if sigmoid:
            grad_scores = _sigmoid_gradient(scores, here, grad, terms)
        else:
            log_sum = kept[band.image, band.rows]
            grad_scores = _softmax_gradient(scores, log_sum, here, known, grad, terms)
        band.add_gradient(grad_scores, grad_logits, align_corners)
    return grad_logits.to(logits.dtype)


def _own(labels: Tensor, known: Tensor) -> Tensor:
    """(1, rows, width): the class whose score is a label's own; any where there is none."""
    return torch.where(known, labels, 0)[None]


def _softmax_losses(scores: Tensor, log_sum: Tensor, labels: Tensor, terms: Terms) -> Tensor:
    counted, known = terms.counted(labels), is_class(labels, len(scores))
    own = _own(labels, counted & known)
    loss = log_sum - scores.gather(0, own)[0]
    weight = as_dtype(terms.class_weight, scores.dtype)
    if weight is not None:
        loss = loss * weight[own[0]]
    if terms.label_smoothing:
        spread = terms.label_smoothing / len(scores)
        weight = scores.new_ones(len(scores)) if weight is None else weight
        others = weight.sum() * log_sum - torch.tensordot(weight, scores, 1)
        loss = loss * (1 - terms.label_smoothing) + spread * others
    return torch.where(counted, torch.where(known, loss, torch.nan), 0)


def _softmax_gradient(scores, log_sum, labels, known, grad, terms: Terms) -> Tensor:
    own = _own(labels, known)
    weight = as_dtype(terms.class_weight, scores.dtype)
    of_own = grad if weight is None else grad * weight[own[0]]
    probabilities = scores.sub_(log_sum).exp_()
    if not terms.label_smoothing:
        return probabilities.mul_(of_own).scatter_add_(0, own, -of_own[None])
    of_own = of_own * (1 - terms.label_smoothing)
    spread = grad * (terms.label_smoothing / len(scores))
    weight = scores.new_ones(len(scores)) if weight is None else weight
    probabilities.mul_(of_own + spread * weight.sum()).scatter_add_(0, own, -of_own[None])
    return probabilities.sub_(weight[:, None, None] * spread)


def _target(scores: Tensor, labels: Tensor) -> Tensor:
    """(K, rows, width): which class is present."""
    present = labels - 1 if len(scores) == 1 else labels
    return torch.arange(len(scores), device=labels.device)[:, None, None] == present


def _weight_of_present(scores: Tensor, terms: Terms) -> Tensor | float:
    weight = as_dtype(terms.class_weight, scores.dtype)
    return 1.0 if weight is None else weight[:, None, None]


def _sigmoid_losses(scores: Tensor, labels: Tensor, terms: Terms) -> Tensor:
    counted, known = terms.counted(labels), is_class(labels, terms.labels)
    present = -_weight_of_present(scores, terms) * F.logsigmoid(scores)
    loss = torch.where(_target(scores, labels), present, -F.logsigmoid(-scores)).sum(0)
    return torch.where(counted, torch.where(known, loss, torch.nan), 0)


def _sigmoid_gradient(scores, labels, grad, terms: Terms) -> Tensor:
    probabilities = scores.sigmoid()
    present = _weight_of_present(scores, terms) * (probabilities - 1)
    return torch.where(_target(scores, labels), present, probabilities).mul_(grad)


_tiled_loss = register("tiled_resized_loss", _forward)


@_tiled_loss.register_fake
def _(logits, labels, class_weight, pixel_weight, align_corners, ignore_index, smoothing, sigmoid):
    losses = logits.new_empty(labels.shape, dtype=loss_dtype(logits))
    kept = losses.new_empty(0 if sigmoid else labels.shape)
    return losses, labels.new_empty((), dtype=torch.int64), kept


_tiled_loss_backward = register("tiled_resized_loss_backward", _backward)


@_tiled_loss_backward.register_fake
def _(logits, *_):
    return torch.empty_like(logits)


def _save(ctx, inputs, output):
    logits, labels, class_weight, pixel_weight, *ctx.options = inputs
    _, correct, kept = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(correct, kept)
    ctx.save_for_backward(logits, labels, class_weight, pixel_weight, kept)


def _differentiate_by(gradient):
    def differentiate(ctx, grad_losses, *_):
        if grad_losses is None:
            return (None,) * 8
        *tensors, kept = ctx.saved_tensors
        return gradient(*tensors, grad_losses, kept, *ctx.options), *[None] * 7

    return differentiate


#: Each pixel's loss; arguments and results as of :func:`_forward`.
tiled_loss = Differentiable(
    _tiled_loss,
    _forward,
    _save,
    _differentiate_by(_tiled_loss_backward),
    _differentiate_by(_backward),
)


def pixel_losses(logits: Tensor, labels: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """As :func:`swin_backbone.ops.reference.resized_losses_reference.pixel_losses`."""
    return tiled_loss(
        logits, labels, terms.class_weight, terms.pixel_weight, terms.align_corners,
        terms.ignore_index, terms.label_smoothing, terms.sigmoid,
    )[:2]  # fmt: skip
