"""Faster and Mask R-CNN as one function from an image to boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .dense_candidates import (
    check_anchor_head,
    check_coder,
    decode,
    dense_candidates,
    iou_threshold,
    pyramid,
)
from .detection_ops import NO_LEAST, keep_best, pool_regions


class RegionFeatures(nn.Module):
    """RoI align on the levels of a pyramid, mmdet's ``SingleRoIExtractor``.

    Args:
        extractor: mmdet's.
        where: its name in messages.

    Raises:
        ValueError: for another extractor, or another layer than RoI align with means.
    """

    def __init__(self, extractor: nn.Module, where: str):
        super().__init__()
        layers = extractor.roi_layers
        kinds = {type(layer).__name__ for layer in layers} | {type(extractor).__name__}
        if kinds != {"SingleRoIExtractor", "RoIAlign"} or layers[0].pool_mode != "avg":
            raise ValueError(
                f"{where} must be a SingleRoIExtractor of RoIAlign with means to be exported, got "
                f"{', '.join(sorted(kinds))}"
            )
        self.extractor = extractor
        self.scales = [float(layer.spatial_scale) for layer in layers]
        size = layers[0].output_size
        self.size = [size, size] if isinstance(size, int) else list(size)
        self.sampling_ratio, self.aligned = int(layers[0].sampling_ratio), bool(layers[0].aligned)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Boxes (N, 4) in pixels to (N, C, rows, columns)."""
        maps = list(maps[: len(self.scales)])
        regions = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
        levels = self.extractor.map_roi_levels(regions, len(maps))
        return pool_regions(
            maps, boxes, levels, self.scales, self.size, self.sampling_ratio, self.aligned
        )


class RegionDetections(nn.Module):
    """What ``predict`` of mmdet's ``FasterRCNN`` or ``MaskRCNN`` finds in an image as the network
    sees it; masks as the mask head gives them.

    Args:
        detector: mmdet's.

    Raises:
        ValueError: if a setting is one that the exported file would not follow.
    """

    def __init__(self, detector: nn.Module):
        super().__init__()
        roi_head = detector.roi_head
        if type(roi_head).__name__ != "StandardRoIHead" or roi_head.with_shared_head:
            raise ValueError(
                f"roi_head must be a StandardRoIHead without shared_head to be exported, got "
                f"{type(roi_head).__name__}"
            )
        self.backbone, self.neck, self.rpn_head = (
            detector.backbone,
            detector.neck,
            detector.rpn_head,
        )
        self.divisor = detector.data_preprocessor.pad_size_divisor
        self.bbox_head = roi_head.bbox_head
        self.box_features = RegionFeatures(roi_head.bbox_roi_extractor, "bbox_roi_extractor")
        self.has_masks = roi_head.with_mask
        if self.has_masks:
            self.mask_head = roi_head.mask_head
            extractor = roi_head.mask_roi_extractor
            self.mask_features = RegionFeatures(extractor, "mask_roi_extractor")
        check_anchor_head(self.rpn_head, "rpn_head")
        check_coder(self.bbox_head.bbox_coder, "roi_head.bbox_head")
        if self.bbox_head.custom_cls_channels or not self.bbox_head.with_reg:
            raise ValueError(
                "roi_head.bbox_head must score by the softmax and move boxes to be exported"
            )
        self._read(self.rpn_head.test_cfg, roi_head.test_cfg)

    def _read(self, rpn, rcnn) -> None:
        self.proposals_of_a_map = int(rpn.get("nms_pre", -1))
        self.proposals = int(rpn["max_per_img"])
        self.least_side = float(rpn.get("min_bbox_size", -1))
        self.rpn_iou_threshold = iou_threshold(rpn, "test_cfg.rpn")
        self.iou_threshold = iou_threshold(rcnn, "test_cfg.rcnn")
        self.least_score = float(rcnn["score_thr"])
        self.most = int(rcnn["max_per_img"])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W) normalised to boxes (N, 4), scores (N,), labels (N,), best first, and with
        a mask head the probabilities (N, rows, columns) of the mask within each box."""
        size = images.shape[2:]
        maps = pyramid(self, images, self.divisor)
        boxes, scores, labels = self._boxes(maps, self._proposals(maps, size), size)
        if not self.has_masks:
            return boxes, scores, labels
        masks = self.mask_head(self.mask_features(maps, boxes)).sigmoid()
        if masks.shape[1] > 1:
            rows, columns = masks.shape[2:]
            index = labels[:, None, None, None].expand(-1, 1, rows, columns)
            masks = masks.gather(1, index)
        return boxes, scores, labels, masks[:, 0]

    def _proposals(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        found = dense_candidates(
            self.rpn_head, maps, size, self.proposals_of_a_map, NO_LEAST, self.least_side
        )
        kept = keep_best(
            found.boxes, found.scores, found.levels,
            NO_LEAST, self.rpn_iou_threshold, self.proposals,
        )  # fmt: skip
        return found.boxes[kept]

    def _boxes(
        self, maps: Sequence[Tensor], proposals: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        head = self.bbox_head
        logits, deltas = head(self.box_features(maps, proposals))
        scores = logits.softmax(1)[:, :-1]
        of_class = proposals[:, None]
        if not head.reg_class_agnostic:
            of_class = of_class.expand(-1, head.num_classes, -1)
        moved = decode(head.bbox_coder, of_class.reshape(-1, 4), deltas.reshape(-1, 4), size)
        moved = moved.view(-1, of_class.shape[1], 4).expand(-1, head.num_classes, -1)
        labels = torch.arange(head.num_classes, device=scores.device).expand_as(scores)
        boxes, scores, labels = moved.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1)
        kept = keep_best(boxes, scores, labels, self.least_score, self.iou_threshold, self.most)
        return boxes[kept], scores[kept], labels[kept]
