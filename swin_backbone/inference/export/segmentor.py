"""A whole segmentor as one function from images to scores."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.symbolic_shapes import contiguous
from .exportable_modules import WholeFactorUpsampling


class SegmentorLogits(nn.Module):
    """Backbone, neck, decode head and the resizing to the image: what mmseg's ``predict`` does
    with a whole image, up to the choice of the best class.

    Args:
        segmentor: an ``EncoderDecoder`` of mmsegmentation.
    """

    def __init__(self, segmentor: nn.Module):
        super().__init__()
        self.backbone = segmentor.backbone
        self.neck = segmentor.neck if segmentor.with_neck else nn.Identity()
        self.decode_head = segmentor.decode_head
        self.align_corners = segmentor.align_corners

    def forward(self, images: Tensor, valid_sizes: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) normalised images to (B, classes, H, W) scores before the softmax;
        ``valid_sizes`` are the backbone's."""
        # Maps are channels-last in memory, and whether a map with axes of length one still counts
        # as channels-last is a question that a trace for every size cannot answer.
        maps = tuple(contiguous(features) for features in self.backbone(images, valid_sizes))
        scores = self.decode_head(self.neck(maps))
        return F.interpolate(
            scores, size=images.shape[2:], mode="bilinear", align_corners=self.align_corners
        )


def mmseg_replacements() -> dict:
    """Stand-ins for mmseg's own modules, by their type."""
    from mmseg.models.utils import Upsample

    return {Upsample: _whole_factor_upsampling}


def _whole_factor_upsampling(module: nn.Module) -> nn.Module:
    factor = module.scale_factor
    if module.size or factor is None or factor != int(factor) or module.mode != "bilinear":
        raise ValueError(
            f"upsampling must be bilinear by a whole factor to be exported, got "
            f"size={module.size}, scale_factor={factor}, mode={module.mode!r}"
        )
    return WholeFactorUpsampling(int(factor), bool(module.align_corners))
