"""What rewrites use of mmdet and do not find in mmdet's documentation.

Tested with mmdet 3.3.0 (classic line) and onedl-mmdetection 3.5.1.
"""

from __future__ import annotations

import torch
from torch import nn

#: What is added to what sums of losses are divided by.
EPS = torch.finfo(torch.float32).eps
#: Methods of a head with anchors that decide what its losses are.
LOSS_METHODS = (
    "loss_by_feat",
    "loss_by_feat_single",
    "get_targets",
    "_get_targets_single",
    "get_anchors",
)
#: Methods of a cascade's head that decide in which order boxes come to the heads of its stages.
BOXES_OF_STAGES = ("loss", "bbox_loss")
#: Methods of a stage's head that decide what the next stage's boxes are.
REFINED_BOXES = ("refine_bboxes", "regress_by_class")
#: Methods of Mask2Former's head that decide what its losses are.
MASK_LOSSES = ("loss_by_feat", "_loss_by_feat_single", "get_targets", "_get_targets_single")
#: Methods of DINO's head that decide what its losses are.
QUERY_LOSSES = (
    "loss_by_feat",
    "loss_by_feat_single",
    "get_targets",
    "_get_targets_single",
    "loss_dn",
    "_loss_dn_single",
    "get_dn_targets",
    "_get_dn_targets_single",
    "split_outputs",
)
#: Methods of a region proposal network that decide what its proposals are.
PROPOSALS = ("predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")


def suppressed(head: nn.Module, results, cfg, rescale: bool, meta: dict):
    """Proposals of an image without small ones and without those that better ones overlap.

    Args:
        head: of mmdet, whose method it is.
        results: boxes, scores and levels.
        cfg: the head's settings, which the method changes.
        rescale: whether boxes are those of the image as it was.
        meta: of the image.
    """
    return head._bbox_post_process(results=results, cfg=cfg, rescale=rescale, img_meta=meta)
