"""The compiled ops of mmcv that detectors call, served where this mmcv has none.

Non-maximum suppression, RoI align and the sigmoid focal loss are torchvision's, on the CPU and on
GPUs. Multi-scale deformable attention is mmcv's own PyTorch implementation, which mmcv takes by
itself on the CPU only. Soft suppression, which torchvision lacks, is written out here.

Each function has the name and the arguments of the op in ``mmcv._ext`` whose place it takes, and
like it writes into the tensors that mmcv hands over, or returns indices. What an op of mmcv can do
and ours cannot (max pooling in RoI align) raises :class:`UnservedOptionError`.
"""

from __future__ import annotations

import torch
from torch import Tensor


class UnservedOptionError(NotImplementedError):
    """An op was called with an option for which there is nothing to serve it with."""


def _torchvision_ops():
    try:
        import torchvision.ops
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise ImportError(
            "this mmcv has no compiled ops, and torchvision, whose ops serve detectors in their "
            "place, cannot be imported; install the torchvision that fits this torch "
            "(pip install torchvision)"
        ) from error
    return torchvision.ops


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Coordinates of an image do not fit into 16 bits, and not every kernel takes these."""
    return tensor.float() if tensor.element_size() < 4 else tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that no better box overlaps by more than ``iou_threshold``.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: intersection over union above which the worse box goes.
        offset: 1 if x2 and y2 are the last pixels of a box, 0 if they are its borders.

    Returns:
        int64 (kept,), best first.
    """
    boxes = _at_least_float32(boxes)
    borders = boxes + boxes.new_tensor([0, 0, offset, offset])
    return _torchvision_ops().nms(borders, _at_least_float32(scores), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (https://arxiv.org/abs/1704.04503): lower the scores of boxes that overlap a better
    one, instead of dropping them.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2.
        scores: (N,).
        dets: (N, 5), written: kept boxes with their new scores, best first; the rest stays.
        iou_threshold: overlap from which methods 0 and 1 act.
        sigma: width of method 2.
        min_score: boxes whose score falls below it are dropped.
        method: factor on the score of a box with overlap o: 0 drops it, 1 is ``1 - o``, 2 is
            ``exp(-o^2 / sigma)``, whatever the overlap.
        offset: as in :func:`nms`.

    Returns:
        int64 (kept,), indices of the kept boxes.
    """
    scores, remaining = scores.clone(), torch.arange(len(scores), device=scores.device)
    kept = []
    while len(remaining):
        best = scores[remaining].argmax()
        chosen = remaining[best]
        dets[len(kept), :4], dets[len(kept), 4] = boxes[chosen], scores[chosen]
        kept.append(chosen)
        remaining = torch.cat([remaining[:best], remaining[best + 1 :]])
        overlap = _overlaps(boxes[chosen], boxes[remaining], offset)
        if method == 2:
            factor = torch.exp(-(overlap**2) / sigma)
        else:
            lowered = 1 - overlap if method == 1 else torch.zeros_like(overlap)
            factor = torch.where(overlap >= iou_threshold, lowered, torch.ones_like(overlap))
        scores[remaining] *= factor
        remaining = remaining[scores[remaining] >= min_score]
    return torch.stack(kept) if kept else remaining


def _overlaps(box: Tensor, others: Tensor, offset: int) -> Tensor:
    """Intersection over union of one box (4,) with others (N, 4)."""
    sides = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    intersection = (sides + offset).clamp(min=0).prod(-1)
    areas = (others[:, 2:] - others[:, :2] + offset).prod(-1)
    return intersection / ((box[2:] - box[:2] + offset).prod() + areas - intersection)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoI align (Mask R-CNN, https://arxiv.org/abs/1703.06870, section 3), mean of the samples.

    Args:
        input: (B, C, H, W).
        rois: (K, 5), index into the batch and x1, y1, x2, y2.
        output: (K, C, aligned_height, aligned_width), written.
        argmax_y: for max pooling, not touched.
        argmax_x: for max pooling, not touched.
        aligned_height: rows of the output.
        aligned_width: columns of the output.
        spatial_scale: size of a pixel of the boxes, in pixels of ``input``.
        sampling_ratio: samples of a bin on each axis; 0 for as many as it has pixels.
        pool_mode: 1, the mean.
        aligned: whether pixel centres lie at half integers.

    Raises:
        UnservedOptionError: for max pooling, ``pool_mode=0``.
    """
    _refuse_max_pooling(pool_mode)
    size = (aligned_height, aligned_width)
    features = _at_least_float32(input)
    pooled = _torchvision_ops().roi_align(
        features, rois.to(features.dtype), size, spatial_scale, sampling_ratio, aligned
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of :func:`roi_align_forward` with respect to ``input``, written to ``grad_input``.

    torchvision has it as an op of its own, so that nothing is computed forward again.
    """
    _refuse_max_pooling(pool_mode)
    _torchvision_ops()  # it registers the op
    grad = _at_least_float32(grad_output)
    gradient = torch.ops.torchvision._roi_align_backward(
        grad,
        rois.to(grad.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.copy_(gradient)


def _refuse_max_pooling(pool_mode: int) -> None:
    if pool_mode != 1:
        raise UnservedOptionError(
            "RoIAlign(pool_mode='max') needs mmcv's compiled ops; torchvision has pool_mode='avg'"
        )


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (https://arxiv.org/abs/1708.02002, equation 5) of independent classes.

    Args:
        input: (N, C) logits.
        target: int64 (N,), class of each row; C or any other value for the background.
        weight: (C,) factor on the loss of a row by its class, or of no elements for none.
        output: (N, C), written.
        gamma: exponent that turns attention to what is hard.
        alpha: factor on the loss of a row's own class; other classes have ``1 - alpha``.

    Raises:
        UnservedOptionError: for weights with background among the targets, which have none.
    """
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the sum of :func:`sigmoid_focal_loss_forward`, written to ``grad_input``."""
    with torch.enable_grad():
        logits = input.detach().requires_grad_()
        loss = _focal_loss(logits, target, weight, gamma, alpha).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    grad_input.copy_(gradient)


def _focal_loss(input, target, weight, gamma, alpha) -> Tensor:
    input = _at_least_float32(input)
    classes = torch.arange(input.shape[1], device=input.device)
    own_class = (target[:, None] == classes).to(input.dtype)
    loss = _torchvision_ops().sigmoid_focal_loss(input, own_class, alpha, gamma)
    if weight.numel() == 0:
        return loss
    if not bool(own_class.any(1).all()):
        raise UnservedOptionError(
            f"sigmoid_focal_loss with a weight for each of {input.shape[1]} classes takes "
            f"targets from 0 to {input.shape[1] - 1}; background has no weight"
        )
    return loss * weight[target][:, None]


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (https://arxiv.org/abs/2010.04159, equation 3).

    Args:
        value: (B, keys, heads, channels).
        value_spatial_shapes: (levels, 2), rows and columns.
        value_level_start_index: (levels,), not needed.
        sampling_locations: (B, queries, heads, levels, points, 2), x and y in [0, 1].
        attention_weights: (B, queries, heads, levels, points).
        im2col_step: not needed.

    Returns:
        (B, queries, heads * channels).
    """
    # mmcv.ops is what asks for this module.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(
        value, value_spatial_shapes, sampling_locations, attention_weights
    )


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of :func:`ms_deform_attn_forward`, written to the tensors named ``grad_*``."""
    inputs = [value, sampling_locations, attention_weights]
    with torch.enable_grad():
        value, locations, weights = inputs = [x.detach().requires_grad_() for x in inputs]
        output = ms_deform_attn_forward(
            value, value_spatial_shapes, value_level_start_index, locations, weights, im2col_step
        )
    gradients = torch.autograd.grad(output, inputs, grad_output)
    for target, gradient in zip(
        (grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True
    ):
        target.copy_(gradient)


#: By the name that mmcv looks up.
SERVED = {
    op.__name__: op
    for op in (
        nms,
        softnms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        ms_deform_attn_forward,
        ms_deform_attn_backward,
    )
}
