"""Detectors of a few thousand weights, random ones that find something in every image."""

import torch
from mmengine.config import Config
from torch import nn

from swin_backbone.openmmlab.whole_models import load_whole_model

from .paths import ROOT
from .small_detector import small_detector

CLASSES = ("ant", "bee", "cat", "dog", "elk")
CONFIGS = {
    "RetinaNet": "retinanet_swin-t-p4-w7_fpn_ms-crop-1x_coco.py",
    "FasterRCNN": "mask-rcnn_swin-t-p4-w7_fpn_ms-crop-1x_coco.py",
    "MaskRCNN": "mask-rcnn_swin-t-p4-w7_fpn_ms-crop-1x_coco.py",
    "DINO": "dino-4scale_swin-t-p4-w7_8xb2-12e_coco.py",
}
BACKBONE = {
    "embed_dims": 8,
    "depths": (1, 1),
    "num_heads": (1, 2),
    "strides": (4, 2),
    "out_indices": (0, 1),
    "window_size": 4,
}


def tiny_config(kind: str) -> Config:
    """A config of ``CONFIGS`` with two stages of a block and three maps."""
    cfg = small_detector(ROOT / "configs" / "swin_det" / CONFIGS[kind])
    model = cfg.model
    model.backbone = {"type": "SwinBackbone", **BACKBONE}
    model.neck.update(in_channels=[8, 16], num_outs=3)
    set_everywhere(model, "num_classes", len(CLASSES))
    if kind == "DINO":
        set_everywhere(model, "num_levels", 3)
        set_everywhere(model, "feedforward_channels", 32)
        model.encoder.num_layers, model.decoder.num_layers = 1, 2
        model.num_queries, model.test_cfg.max_per_img = 30, 25
    elif kind == "RetinaNet":
        model.bbox_head.anchor_generator.strides = [4, 8, 16]
        model.bbox_head.stacked_convs = 1
        model.test_cfg.update(nms_pre=50, max_per_img=20)
    else:
        model.rpn_head.anchor_generator.strides = [4, 8, 16]
        for name in ("bbox_roi_extractor", "mask_roi_extractor"):
            model.roi_head[name].featmap_strides = [4, 8]
            model.roi_head[name].finest_scale = 20  # boxes of small images, too, lie on both maps
        model.test_cfg.rpn.update(nms_pre=50, max_per_img=40)
        model.test_cfg.rcnn.max_per_img = 20
    if kind == "FasterRCNN":
        model.type = "FasterRCNN"
        for name in ("mask_head", "mask_roi_extractor"):
            model.roi_head.pop(name)
    metainfo = {"classes": CLASSES, "palette": [(9 * i, 200, 30) for i in range(len(CLASSES))]}
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        cfg[name].dataset.metainfo = metainfo
    return cfg


def set_everywhere(value, name: str, to) -> None:
    """Set a key wherever a config has it."""
    if isinstance(value, list):
        for item in value:
            set_everywhere(item, name, to)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == name:
                value[key] = to
            else:
                set_everywhere(item, name, to)


def tiny_detector(cfg: Config, seed: int = 0) -> nn.Module:
    """The model of :func:`tiny_config`, whose scores differ from box to box."""
    model = load_whole_model(cfg, None, kind="detector")
    # Large ones make scores of one, which tie; small ones make scores that hardly differ.
    weight = 0.8 if cfg.model.type == "RetinaNet" else 1.2
    torch.manual_seed(seed)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        spread = weight / fan_in**0.5 if parameter.dim() > 1 else 0.1
        nn.init.normal_(parameter, mean=0.0, std=spread)
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            nn.init.normal_(module.weight, mean=1.0, std=0.1)
    return model.eval()
