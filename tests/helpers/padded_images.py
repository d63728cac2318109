"""Images of different sizes in one batch, and what each gives by itself."""

import importlib

import pytest
import torch
from mmengine.registry import init_default_scope

from .paths import DETECTION_CONFIGS
from .small_detector import small_detector

ARGUMENTS = {
    "embed_dims": 16,
    "depths": (2, 2, 2),
    "num_heads": (1, 2, 4),
    "strides": (4, 2, 2),
    "out_indices": (0, 1, 2),
    "window_size": 4,
    "drop_path_rate": 0.0,
}
#: Images' sizes in pixels: whole patches and not, smaller than a window, one as large as the batch.
SIZES = [(61, 83), (40, 96), (7, 5), (64, 33)]


def pad(images, size=(64, 96), value=7.0):
    """A batch with the images at the top left, and something else elsewhere."""
    batch = torch.full((len(images), 3, *size), value, dtype=images[0].dtype)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def draw(dtype=torch.float64, sizes=SIZES):
    return [torch.randn(3, *size, dtype=dtype) for size in sizes]


def assert_equal_alone(maps, alone, tolerance):
    """``maps`` of a batch, against lists of the maps of each image by itself."""
    for stage, batch_map in enumerate(maps):
        for index, own_maps in enumerate(alone):
            own = own_maps[stage][0]
            rows, columns = own.shape[1:]
            inside = batch_map[index, :, :rows, :columns]
            torch.testing.assert_close(inside, own, rtol=tolerance, atol=tolerance)
            rest = batch_map[index].clone()
            rest[:, :rows, :columns] = 0
            assert (rest == 0).all(), "not zero outside"


def stock_detector():
    pytest.importorskip("mmdet")
    cfg = small_detector(DETECTION_CONFIGS / "retinanet_swin-t-p4-w7_fpn_ms-crop-1x_coco.py")
    cfg.model.data_preprocessor.type = "SwinDetDataPreprocessor"
    cfg.model.backbone.mask_padding = True
    init_default_scope("mmdet")
    sample = importlib.import_module("mmdet.structures").DetDataSample
    return importlib.import_module("mmdet.registry").MODELS.build(cfg.model), sample
