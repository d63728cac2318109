"""Masks of objects that MaskFormer and Mask2Former get, accelerated, against the stock classes."""

import copy

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.small_detector import small_detector

import swin_backbone
from swin_backbone.acceleration import mmdet_object_masks

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import register_all_modules
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData

CONFIG = ROOT / "configs" / "swin_det" / "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIZE = (24, 40)


@pytest.fixture(scope="module")
def stock():
    register_all_modules(init_default_scope=False)
    config = small_detector(CONFIG).model
    config.panoptic_head.update(train_cfg=config.train_cfg, test_cfg=config.test_cfg)
    config.panoptic_head.num_things_classes = 5
    config.panoptic_head.num_stuff_classes = 3
    config.panoptic_head.loss_cls.class_weight = [1.0] * 8 + [0.1]
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(config.panoptic_head).train()


def bitmaps(count, dtype=np.uint8, values=2):
    drawn = np.random.default_rng(count).integers(0, values, (count, *SIZE))
    return BitmapMasks(drawn.astype(dtype), *SIZE)


def polygons(count):
    corners = [np.array([1, 1, 9 + i, 1, 9 + i, 12, 1, 12], np.float32) for i in range(count)]
    return PolygonMasks([[one] for one in corners], *SIZE)


KINDS = {
    "bitmaps": bitmaps,
    "booleans": lambda count: bitmaps(count, np.bool_),
    "other values": lambda count: bitmaps(count, np.uint8, 256),
    "integers": lambda count: bitmaps(count, np.int64),
    "polygons": polygons,
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("panoptic", [False, True])
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_labels_and_masks(stock, make, panoptic, device):
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert "object_masks" in {row.rewrite for row in report.replaced}
    objects, maps = [], []
    for count in (3, 0, 1):
        labels = torch.randint(5, (count,), device=device)
        objects.append(InstanceData(labels=labels, masks=make(count)))
        classes = torch.randint(9, (1, *SIZE), device=device)
        maps.append(PixelData(sem_seg=classes) if panoptic else None)
    given = copy.deepcopy(objects)
    expected = stock.preprocess_gt(objects, maps)
    for right, found in zip(expected, fast.preprocess_gt(objects, maps), strict=True):
        assert torch.equal(found.labels, right.labels)
        assert (found.masks.dtype, found.masks.device) == (right.masks.dtype, right.masks.device)
        assert torch.equal(found.masks, right.masks)
    for one, before in zip(objects, given, strict=True):
        assert np.array_equal(one.masks.to_ndarray(), before.masks.to_ndarray())
    report.revert()
    assert "preprocess_gt" not in vars(fast)


def test_what_is_left(stock):
    own = copy.deepcopy(stock)
    own.__class__ = type("Own", (type(own),), {"preprocess_gt": lambda self, *inputs: inputs})
    (row,) = [r for r in swin_backbone.accelerate(own).left if r.rewrite == "object_masks"]
    assert "has a preprocess_gt of its own" in row.reason
    assert not mmdet_object_masks.finds(torch.nn.Identity())
