"""RetinaNet as one function from an image to boxes."""

from __future__ import annotations

from torch import Tensor, nn

from .dense_candidates import check_anchor_head, dense_candidates, iou_threshold, pyramid
from .detection_ops import NO_LEAST, keep_best


class RetinaNetDetections(nn.Module):
    """What ``predict`` of mmdet's ``RetinaNet`` finds in an image as the network sees it.

    Args:
        detector: mmdet's.

    Raises:
        ValueError: if a setting is one that the exported file would not follow.
    """

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.backbone, self.neck, self.head = detector.backbone, detector.neck, detector.bbox_head
        self.divisor = detector.data_preprocessor.pad_size_divisor
        cfg = self.head.test_cfg
        check_anchor_head(self.head, "bbox_head")
        self.iou_threshold = iou_threshold(cfg, "test_cfg")
        self.least_score = max(float(cfg.get("score_thr", NO_LEAST)), NO_LEAST)
        self.most_of_a_map = int(cfg.get("nms_pre", -1))
        self.least_side = float(cfg.get("min_bbox_size", -1))
        self.most = int(cfg["max_per_img"])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, H, W) normalised to boxes (N, 4), scores (N,) and labels (N,), best first."""
        maps = pyramid(self, images, self.divisor)
        found = dense_candidates(
            self.head, maps, images.shape[2:], self.most_of_a_map, self.least_score, self.least_side
        )
        kept = keep_best(
            found.boxes, found.scores, found.labels,
            self.least_score, self.iou_threshold, self.most,
        )  # fmt: skip
        return found.boxes[kept], found.scores[kept], found.labels[kept]
