"""Whole detectors of this project's configs: each way of running one that a user can choose."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from swin_backbone import accelerate

from .runners import Runner
from .segmentors import Task, train_step

ROOT = Path(__file__).parents[2]
#: By name, the config that is measured; with random weights.
CONFIGS = {
    "mask-rcnn": "mask-rcnn_swin-t-p4-w7_fpn_ms-crop-1x_coco.py",
    "dino": "dino-4scale_swin-t-p4-w7_8xb2-12e_coco.py",
}
#: Backbone, and whether the model is accelerated.
WAYS = {
    "mmdet": ("SwinTransformer", False),
    "mmdet, accelerated": ("SwinTransformer", True),
    "SwinBackbone": ("SwinBackbone", False),
    "SwinBackbone, accelerated": ("SwinBackbone", True),
}
#: Objects of an image.
OBJECTS = 12


def build_detector(name: str, backbone: str) -> nn.Module:
    """The detector of a config, with mmdet's backbone or ours."""
    import mmdet.models  # noqa: F401  (registers)
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    config = Config.fromfile(ROOT / "configs" / "swin_det" / CONFIGS[name]).model
    config.backbone.pop("init_cfg", None)
    if backbone == "SwinTransformer":
        config.backbone.pop("arch")
        config.backbone.update(type=backbone, embed_dims=96, depths=(2, 2, 6, 2))
        config.backbone.update(num_heads=(3, 6, 12, 24))
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config)
        model.init_weights()
    return model


def draw_objects(task: Task, device: str) -> list:
    """Data samples with boxes, labels and masks, which are filled ellipses, as numpy holds them."""
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    rows, columns = task.size
    meta = {"img_shape": task.size, "ori_shape": task.size, "pad_shape": task.size}
    meta |= {"batch_input_shape": task.size, "scale_factor": (1.0, 1.0)}
    samples = []
    for _ in range(task.batch):
        sides = torch.rand(OBJECTS, 2) * 0.3 + 0.05
        size = torch.tensor([columns, rows])
        corner = torch.rand(OBJECTS, 2) * (1 - sides)
        boxes = torch.cat([corner * size, (corner + sides) * size], 1)
        y, x = np.mgrid[:rows, :columns].astype(np.float32)
        masks = []
        for x1, y1, x2, y2 in boxes.tolist():
            across, down = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
            masks.append(across**2 + down**2 < 1)
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=boxes.to(device),
            labels=torch.randint(80, (OBJECTS,), device=device),
            masks=BitmapMasks(np.stack(masks).astype(np.uint8), rows, columns),
        )
        sample.ignored_instances = InstanceData(
            bboxes=boxes[:0].to(device), labels=torch.zeros(0, dtype=torch.long, device=device)
        )
        samples.append(sample)
    return samples


def detector_runner(name: str, task: Task, device: str) -> Runner:
    """A :class:`Runner` of one of :data:`WAYS`; the task's architecture is a detector's name."""
    backbone, is_fast = WAYS[name]
    torch.manual_seed(0)
    model = build_detector(task.arch, backbone).to(device)
    if is_fast:
        accelerate(model)
    images = torch.randn(task.batch, 3, *task.size, device=device)
    samples = draw_objects(task, device)
    if task.mode == "predict":
        return Runner(name, model.eval(), images, _predict_step(model, images, samples, device))

    def losses() -> Tensor:
        found = model.loss(images, samples)
        values = [value for key, value in found.items() if "loss" in key]
        return sum(sum(v) if isinstance(v, list) else v.mean() for v in values)

    return Runner(name, model.train(), images, train_step(model, losses, device))


def _predict_step(model: nn.Module, images: Tensor, samples: list, device: str):
    def step() -> list:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return model.predict(images, samples, rescale=False)

    return step
