"""The compiled ops of mmcv that detectors and segmentors call, served where this mmcv has none.

Non-maximum suppression, RoI align, the sigmoid focal loss and deformable convolutions are
torchvision's, on the CPU and on GPUs. Multi-scale deformable attention is
:func:`swin_backbone.ops.multi_scale_deformable_attention`. What torchvision lacks, or defines
otherwise, is written out in PyTorch.

Each function has the name and the arguments of the op in ``mmcv._ext`` whose place it takes, and
like it writes into the tensors that mmcv hands over, or returns indices. What an op of mmcv can do
and ours cannot (max pooling in RoI align) raises :class:`UnsupportedOptionError`.
"""

from .carafe import carafe_backward, carafe_forward, carafe_naive_backward, carafe_naive_forward
from .common import UnsupportedOptionError
from .deformable_attention import ms_deform_attn_backward, ms_deform_attn_forward
from .deformable_convolution import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .masked_convolution import masked_col2im_forward, masked_im2col_forward
from .overlaps import bbox_overlaps, box_iou_rotated
from .roi_align import roi_align_backward, roi_align_forward
from .roi_align_rotated import roi_align_rotated_backward, roi_align_rotated_forward
from .roi_pool import roi_pool_backward, roi_pool_forward
from .suppression import nms, nms_match, nms_rotated, softnms

#: By the name that mmcv looks up.
SERVED = {
    op.__name__: op
    for op in (
        bbox_overlaps,
        box_iou_rotated,
        carafe_backward,
        carafe_forward,
        carafe_naive_backward,
        carafe_naive_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        deform_conv_forward,
        masked_col2im_forward,
        masked_im2col_forward,
        modulated_deform_conv_backward,
        modulated_deform_conv_forward,
        ms_deform_attn_backward,
        ms_deform_attn_forward,
        nms,
        nms_match,
        nms_rotated,
        roi_align_backward,
        roi_align_forward,
        roi_align_rotated_backward,
        roi_align_rotated_forward,
        roi_pool_backward,
        roi_pool_forward,
        sigmoid_focal_loss_backward,
        sigmoid_focal_loss_forward,
        softmax_focal_loss_backward,
        softmax_focal_loss_forward,
        softnms,
    )
}

__all__ = ["SERVED", "UnsupportedOptionError"]
