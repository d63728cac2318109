"""The last convolution of mmseg's decode heads, whose scores lie class by class.

Losses and predictions read scores a class at a time, and cuDNN pads 150 classes to 152: see
:func:`swin_backbone.ops.class_scores`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.plain_modules import is_bare, is_plain
from ..ops import class_scores, compute_dtype, dispatch
from .mmseg_heads import decode_head, is_decode_head
from .rewrite import Rewrite, Undo, own_method, replace_methods

LOW = (torch.float16, torch.bfloat16)


def why_not(head: nn.Module) -> str | None:
    reason = own_method(head, "cls_seg", decode_head())
    if reason is not None:
        return reason
    conv = getattr(head, "conv_seg", None)  # cascades of K-Net have none of their own
    if type(conv) is not nn.Conv2d or conv.kernel_size != (1, 1) or conv.groups != 1:
        return f"its conv_seg is {type(conv).__name__}, or no 1x1 convolution"
    if conv.stride != (1, 1) or conv.padding != (0, 0):
        return "its conv_seg has a stride or pads"
    return None


def apply(head: nn.Module) -> Undo:
    return replace_methods(head, {"cls_seg": cls_seg})


def cls_seg(head: nn.Module, feat: Tensor) -> Tensor:
    """``BaseDecodeHead.cls_seg``."""
    conv = head.conv_seg
    dtype = compute_dtype(feat)
    fast = feat.is_cuda and dtype in LOW
    fast = fast and is_bare(conv, nn.Conv2d) and is_plain(conv.weight) and is_plain(conv.bias)
    fast = fast and (conv.weight.dtype == feat.dtype or torch.is_autocast_enabled("cuda"))
    if not fast or dispatch.why_not_maps(feat) is not None:
        return type(head).cls_seg(head, feat)
    if head.dropout is not None:
        feat = head.dropout(feat)
    return class_scores(feat, conv.weight, conv.bias, dtype)


REWRITE = Rewrite("scores", "scores that lie class by class", is_decode_head, why_not, apply)
